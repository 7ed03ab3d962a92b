"""Stop strings: a request ends at the first token that completes one, whatever was drafted."""

from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import given
from saboteurs import machinery
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from toolkit import Registry, engine, verify
from toolkit.conformance import cases
from toolkit.conformance.models import VOCABULARY

REGISTRY = Registry.installed()
PRODUCT = cases.product(REGISTRY)
STRINGS = st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=3).map(tuple)


def letters():
    """A tokenizer whose tokens are short texts of two letters, so that stop strings cross tokens."""
    texts = [format(number, "b")[1:].replace("0", "a").replace("1", "b") for number in range(2, 128)]
    inner = Tokenizer(models.WordLevel(dict(zip(texts, range(VOCABULARY), strict=False)), "a"))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


TOKENIZER = letters()


def spelled(case):
    """The case's pipeline, with a tokenizer."""
    pipeline = case.pipeline(REGISTRY)
    object.__setattr__(pipeline.pool.load(pipeline.target), "tokenizer", TOKENIZER)
    return pipeline


def expected(free, strings):
    """Tokens and text by the slow rule: decode every prefix anew and look for the strings."""
    for count in range(1, len(free) + 1):
        text = TOKENIZER.decode(free[:count])
        places = [text.find(string) for string in strings if string in text]
        if places:
            return free[:count], text[: min(places)], True
    return free, TOKENIZER.decode(free), False


def stops_exactly(case, strings):
    """Check the rule for one case; returns whether a stop string ended it inside a step."""
    pipeline = spelled(case)
    count = case.max_new_tokens
    free = pipeline.autoregressive.generate(case.prompt, max_new_tokens=count)
    tokens, text, stopped = expected(free.token_ids, strings)
    for one in (pipeline, pipeline.autoregressive):
        stream = one.stream(case.prompt, max_new_tokens=count, stop=strings)
        pieces = list(stream)
        result = stream.result
        assert result.token_ids == tokens
        assert result.text == "".join(pieces) == text
        assert stream.target.length == len(case.prompt) + len(tokens) - 1
        assert (result.stop_reason == "stop") is (stopped and tokens[-1] not in case.stops)
    result = pipeline.generate(case.prompt, max_new_tokens=count, stop=strings)
    assert verify(pipeline, result).verdict in ("exact", "inconclusive")
    return stopped and any(step.accepted for step in result.steps[-1:])


@given(st.sampled_from(PRODUCT).flatmap(lambda names: cases.cases(REGISTRY, names)), STRINGS)
def test_a_request_ends_at_the_token_that_completes_a_stop_string(case, strings):
    stops_exactly(case, strings)


def fixed():
    """Cases of which some end inside an accepted path."""
    specs = {"drafter": "model:exact", "shaper": "chain:k=6", "verifier": "greedy"}
    chosen = {kind: REGISTRY.resolve(kind, spec) for kind, spec in specs.items()}
    full = REGISTRY.resolve("kv", "full")
    for seed in range(4):
        yield cases.Case(
            family="llama", seed=seed, noise=0.0, prompt=(5, 9, 33, 4), max_new_tokens=24, stops=(),
            kv=full, draft_kv=full, **chosen,
        )  # fmt: skip


def late(case, first):
    """A stop string that two neighbouring tokens complete."""
    free = spelled(case).generate(case.prompt, max_new_tokens=case.max_new_tokens).token_ids
    return (TOKENIZER.decode(free[first : first + 2])[1:],)


INSIDE = [(case, first) for case in fixed() for first in (3, 9, 11)]


def test_some_requests_end_inside_an_accepted_path():
    assert sum(stops_exactly(case, late(case, first)) for case, first in INSIDE) > 3


def by_step(judged, tree, room, ends):
    """Looks for a stop string after a step, and not after each of its tokens."""
    verdict, tokens, _ = honest(judged, tree, room, lambda _: False)
    return verdict, tokens, any(ends(token) for token in tokens)


honest = engine.cut_verdict


@pytest.mark.parametrize("sabotage", [
    machinery.past_the_end, lambda: patch.object(engine, "cut_verdict", by_step)
], ids=["past the end", "by step"])  # fmt: skip
def test_a_stop_that_is_seen_late_is_caught(sabotage):
    caught = 0
    for case, first in INSIDE:
        strings = late(case, first)
        with sabotage():
            try:
                stops_exactly(case, strings)
            except AssertionError:
                caught += 1
    assert caught > 3
