"""A request that continues from the KV of an earlier one gives what a fresh one gives."""

from unittest.mock import PropertyMock, patch

import hypothesis.strategies as st
import pytest
from hypothesis import given

from toolkit import Registry
from toolkit.conformance import cases
from toolkit.conformance.comparison import Broken, require_same_rows, snapshot
from toolkit.conformance.models import VOCABULARY
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.positions import PositionTable
from toolkit.runtime.kv.score_eviction import ScoreEviction

REGISTRY = Registry.installed()
PRODUCT = cases.product(REGISTRY)
SAID = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=12)
TURNS = st.lists(st.tuples(st.integers(0, 12), SAID), min_size=1, max_size=3)


def decoded(pipeline, prompt, case, after=None):
    stream = pipeline.stream(prompt, max_new_tokens=case.max_new_tokens, after=after)
    for _ in stream.decode():
        pass
    return stream


def turns_equal_fresh_requests(case, turns):
    """Go through a conversation; a turn takes back some tokens of what was said and adds others.
    Returns how many prompt tokens were not forwarded again."""
    pipeline, kept = case.pipeline(REGISTRY), 0
    last = decoded(pipeline, case.prompt, case)
    for back, said in turns:
        text = [*last.prompt, *last.result.token_ids]
        prompt = [*text[: max(1, len(text) - back)], *said][-100:]
        fresh, last = decoded(pipeline, prompt, case), decoded(pipeline, prompt, case, after=last)
        if last.result.token_ids != fresh.result.token_ids:
            raise Broken(f"{last.result.token_ids}, fresh {fresh.result.token_ids}, in {case}")
        rows = snapshot(last.target.cache), snapshot(fresh.target.cache)
        require_same_rows(*rows, f"in turn {prompt} of {case}")
        assert last.target.length == fresh.target.length
        kept += last.kept
    return kept


@given(st.sampled_from(PRODUCT).flatmap(lambda names: cases.cases(REGISTRY, names)), TURNS)
def test_a_turn_gives_what_a_fresh_request_gives(case, turns):
    turns_equal_fresh_requests(case, turns)


def fixed(kv="full", families=("llama", "gpt2", "mistral", "gemma3")):
    specs = {"drafter": "model:noisy", "shaper": "budget", "verifier": "greedy", "kv": kv}
    chosen = {kind: REGISTRY.resolve(kind, spec) for kind, spec in specs.items()}
    for family in families:
        yield cases.Case(
            family=family, seed=1, noise=0.02, prompt=(5, 9, 33, 4, 7, 7, 3), max_new_tokens=12,
            stops=(), draft_kv=REGISTRY.resolve("kv", "full"), **chosen,
        )  # fmt: skip


LATER = [(3, [8, 6]), (0, [4, 9]), (20, [2])]


@pytest.mark.parametrize("case", [*fixed()], ids=lambda case: case.family)
def test_what_was_said_before_is_not_forwarded_again(case):
    first, rest = LATER[:1], LATER[1:]
    assert turns_equal_fresh_requests(case, first) >= len(case.prompt)
    assert turns_equal_fresh_requests(case, [*first, *rest]) > turns_equal_fresh_requests(case, first)


def test_a_policy_that_has_hidden_nothing_yet_keeps_its_rows():
    kept = [
        turns_equal_fresh_requests(case, [(0, [8, 6])])
        for spec in ("window:budget=128", "window:budget=8", "h2o:budget=128")
        for case in fixed(spec, ["llama"])
    ]
    assert kept[0] > 7
    assert kept[1:] == [0, 0]


def test_a_request_is_taken_over_once():
    case = next(fixed())
    pipeline = case.pipeline(REGISTRY)
    first = decoded(pipeline, case.prompt, case)
    prompt = [*case.prompt, 3, 5]
    assert decoded(pipeline, prompt, case, after=first).kept == len(case.prompt)
    assert decoded(pipeline, prompt, case, after=first).kept == 0
    other = case.pipeline(REGISTRY)
    assert decoded(other, [9, 9], case, after=decoded(pipeline, case.prompt, case)).kept == 0


def test_a_request_that_is_broken_off_ends_when_it_is_taken_over():
    case = next(fixed())
    pipeline, prompt = case.pipeline(REGISTRY), [*case.prompt, 3, 5]
    first = pipeline.stream(case.prompt, max_new_tokens=12)
    next(first.decode())
    second = decoded(pipeline, prompt, case, after=first)
    assert second.kept == len(case.prompt)
    assert list(first.decode()) == []
    assert second.result.token_ids == decoded(pipeline, prompt, case).result.token_ids


def test_a_request_that_is_interrupted_within_a_step_is_not_taken_over():
    case = next(fixed())
    pipeline = case.pipeline(REGISTRY)
    first = pipeline.stream(case.prompt, max_new_tokens=12)
    next(first.decode())
    with (
        patch.object(TreeCache, "commit", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        next(first.decode())
    assert decoded(pipeline, [*case.prompt, 3, 5], case, after=first).kept == 0


def nothing_truncated():
    """The rows of what was taken back stay."""
    return patch.object(PositionTable, "truncate", lambda self, length: None)


def one_too_many():
    """A row more is kept than both prompts share."""
    honest = TreeCache.rewind

    def rewind(self, length):
        done = honest(self, min(length + 1, self.length))
        self.length = length
        return done

    return patch.object(TreeCache, "rewind", rewind)


def gone_rows_ignored():
    """Rows that a sliding window has dropped are not missed."""
    return patch.object(PositionTable, "reaches", lambda self, length: True)


@pytest.mark.parametrize(
    ("sabotage", "kv", "families"),
    [
        (nothing_truncated, "full", ["llama"]),
        (one_too_many, "full", ["llama"]),
        (gone_rows_ignored, "full", ["mistral"]),
    ],
    ids=lambda thing: getattr(thing, "__name__", None),
)
def test_a_cache_that_is_rewound_wrongly_is_caught(sabotage, kv, families):
    (case,) = fixed(kv, families)
    with sabotage(), pytest.raises((Broken, RuntimeError)):
        turns_equal_fresh_requests(case, LATER)


def test_rows_that_a_policy_has_chosen_are_not_right_for_another_prompt():
    case = next(fixed("h2o:budget=12,sinks=1,recent=2,epoch=4", ["llama"]))
    with (
        patch.object(ScoreEviction, "untouched", PropertyMock(return_value=True)),
        patch.object(PositionTable, "reaches", lambda self, length: True),
        pytest.raises((Broken, RuntimeError, AssertionError)),
    ):
        turns_equal_fresh_requests(case, LATER)
