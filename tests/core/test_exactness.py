"""The comparison with AR tells exact, tie, divergent and inconclusive apart."""

import copy
import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tape import Tape

from toolkit import (
    Pipeline,
    Pool,
    Sampler,
    TokenTree,
    Verdict,
    Verifier,
    exactness,
    option,
    verify,
)
from toolkit.conformance.models import noisy, tiny
from toolkit.exactness import Watch, compare_with_ar, ulp
from toolkit.runtime.compute.executors import captured

PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]
ROOT = TokenTree.root(0)


@attrs.define
class Saboteur(Verifier):
    """Greedy, but in its call number `at` (the prefill's is 0) it says `token`."""

    name = "saboteur"
    exactness = "lossy"
    assumes = frozenset({"fixed", "sampled"})
    at: int = option(0)
    token: int = option(0)
    calls: int = attrs.field(init=False, default=0)

    def judge(self, tree, logits, rng):
        self.calls += 1
        return Verdict([0], self.token if self.calls == self.at + 1 else int(logits[0].argmax()))


@pytest.fixture(scope="module")
def twins():
    """A model whose tokens 96 and 95 have equal logits but for rounding, and often the highest."""
    model = copy.deepcopy(tiny("llama", 1))
    head = model.lm_head.weight.data
    ids = Pipeline(model, drafter="none").generate(PROMPT, max_new_tokens=6).token_ids
    head[96] = head[95] = head[ids[3]] * 1.5  # this one wins wherever ids[3] won
    return model


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("shaper", ["adaptive:prune=0,stop=0", "fixed:threshold=0", "chain"])
def test_speculation_is_exact(family, shaper):
    pool = Pool(modules={"small": noisy(family, 0, 0.06)})
    pipeline = Pipeline(tiny(family, 0), drafter="model:small", shaper=shaper, pool=pool)
    generation = pipeline.generate(PROMPT, max_new_tokens=12)
    found = verify(pipeline, generation)
    assert (found.verdict, found.ties, found.first) == ("exact", 0, None)
    assert found.ar_tokens_per_s > 0
    assert generation.metrics["accepted"] > 0
    assert generation.metrics["acceptance"] < 1


def test_the_speed_of_ar_is_that_of_graphs_where_its_steps_are(monkeypatch):
    """The compared ones are not."""
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    pool = Pool(modules={"small": noisy("llama", 0, 0.06)})
    pipeline = Pipeline(copy.deepcopy(tiny("llama")), drafter="model:small", shaper="chain", pool=pool)
    generation = pipeline.generate(PROMPT, max_new_tokens=12)
    made, honest = [], Pipeline.generate
    monkeypatch.setattr(
        Pipeline, "generate", lambda *args, **options: made.append(honest(*args, **options)) or made[-1]
    )
    compared = compare_with_ar(pipeline, PROMPT, generation.token_ids)
    found = verify(pipeline, generation)
    assert (found.verdict, compared.verdict) == ("exact", "exact")
    assert found.ar_tokens_per_s == made[-1].tokens_per_s
    assert "10 of them ahead" in made[-1].steps_run
    assert len(made) == 2


@pytest.mark.parametrize("verifier", ["hybrid", "specinfer", "swor", "traversal"])
def test_at_temperature_0_a_law_is_one_token_so_it_can_be_compared(verifier):
    pool = Pool(modules={"small": noisy("llama", 0, 0.06)})
    pipeline = Pipeline(tiny("llama"), drafter="model:small", verifier=verifier, pool=pool)
    generation = pipeline.generate(PROMPT, max_new_tokens=12)
    assert verify(pipeline, generation).verdict == "exact"
    assert generation.metrics["accepted"] > 0
    *others, last = generation.token_ids
    changed = attrs.evolve(generation, token_ids=[*others, (last + 1) % 97])  # the control
    assert verify(pipeline, changed).verdict == "divergent"


@pytest.mark.parametrize("count", [1, 8])
def test_what_drafted_nothing_is_inconclusive(count):
    pipeline = Pipeline(tiny("llama"), drafter="none")
    generation = pipeline.generate(PROMPT, max_new_tokens=count)
    assert verify(pipeline, generation).verdict == "inconclusive"
    assert compare_with_ar(pipeline, PROMPT, generation.token_ids).verdict == "exact"


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_sabotaged_verifier_is_divergent_at_the_sabotaged_token(at):
    honest = Pipeline(tiny("llama"), drafter="ngram").generate(PROMPT, max_new_tokens=8).token_ids
    wrong = (honest[at] + 1) % 97
    pipeline = Pipeline(tiny("llama"), verifier=Saboteur(at, wrong))
    found = verify(pipeline, pipeline.generate(PROMPT, max_new_tokens=8))
    assert found.verdict == "divergent"
    assert (found.first.index, found.first.our_token, found.first.ar_token) == (at, wrong, honest[at])
    assert found.first.margin > found.first.allowed


def test_a_tie_is_counted_and_ar_goes_on_from_our_token(twins):
    greedy = Pipeline(twins, drafter="none").generate(PROMPT, max_new_tokens=8).token_ids
    at, first = next((at, token) for at, token in enumerate(greedy) if token in (95, 96))
    other = 191 - first  # which of them is AR's may be a matter of the last place
    pipeline = Pipeline(
        twins, drafter="model:small", shaper="chain:k=2", verifier=Saboteur(at, other),
        pool=Pool(modules={"small": noisy("llama", 1)}),
    )
    generation = pipeline.generate(PROMPT, max_new_tokens=8)
    found = verify(pipeline, generation)
    assert generation.token_ids[at] == other
    assert found.verdict == "tie"
    assert found.ties == 1
    assert (found.first.index, found.first.our_token, found.first.ar_token) == (at, other, first)
    assert found.first.margin <= found.first.allowed


def test_tokens_after_the_end_are_divergent():
    pipeline = Pipeline(tiny("llama"))
    generation = pipeline.generate(PROMPT, max_new_tokens=6)
    model = copy.deepcopy(tiny("llama"))
    model.generation_config.eos_token_id = generation.token_ids[2]
    stops = generation.token_ids.index(generation.token_ids[2]) + 1
    found = verify(Pipeline(model), generation)
    assert found.verdict == "divergent"
    assert found.first.index == stops


@pytest.mark.parametrize(
    ("dtype", "gap", "tie"),
    [
        (torch.bfloat16, 0.0, True),
        (torch.bfloat16, 2.0, True),
        (torch.bfloat16, 3.0, False),
        (torch.float32, 2.0, True),
        (torch.float32, 3.0, False),
        (torch.float64, 3.0, False),
    ],
)
@pytest.mark.parametrize("top", [1.5, 9.0, -3.0])
def test_two_units_in_the_last_place_are_a_tie(dtype, gap, tie, top):
    spacing = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(abs(top)))
    row = torch.tensor([-50.0, top, top - gap * spacing], dtype=dtype)
    watch = Watch([2], dtype)
    verdict = watch.judge(ROOT, row[None], Sampler())
    if gap == 0:  # the wanted token is not the lowest id
        assert int(row.argmax()) == 1
    assert verdict.bonus == (2 if tie else 1)
    assert (len(watch.ties), watch.divergent is None) == ((1, True) if tie else (0, False))
    difference = watch.ties[0] if tie else watch.divergent
    assert difference.margin == gap * spacing
    assert difference.allowed == 2 * spacing


def test_equal_tokens_are_no_difference():
    watch = Watch([1, 2], torch.float32)
    for row in ([0.0, 5.0, 1.0], [0.0, 1.0, 5.0]):
        watch.judge(ROOT, torch.tensor([row]), Sampler())
    assert (watch.compared, watch.ties, watch.divergent) == (2, [], None)


def test_ties_are_as_wide_as_the_target_rounds(monkeypatch):
    """Which in TF32 is wider than its dtype says."""
    dtypes, honest = [], exactness.Watch
    monkeypatch.setattr(exactness, "rounding_of", lambda _: torch.float16)
    monkeypatch.setattr(exactness, "Watch", lambda *given: dtypes.append(given[1]) or honest(*given))
    pipeline = Pipeline(tiny("llama"), drafter="ngram")
    compare_with_ar(pipeline, [5, 9, 33], pipeline.generate([5, 9, 33], max_new_tokens=4).token_ids)
    assert dtypes == [torch.float16]


@given(st.floats(2.0**-900, 2.0**900) | st.floats(-(2.0**900), -(2.0**-900)))
def test_ulp_is_the_spacing_of_float64(value):
    assert ulp(value, torch.float64) == math.ulp(value)


@pytest.mark.parametrize("value", [1.0, 1.99, 2.0, 127.0, 128.0, -0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ulp_is_the_distance_to_the_next_number(value, dtype):
    here = torch.tensor(value, dtype=dtype).abs()
    above = torch.nextafter(here, torch.tensor(math.inf, dtype=dtype)) if dtype != torch.float16 else (
        (here.view(torch.int16) + 1).view(torch.float16)
    )
    assert ulp(-float(here), dtype) == ulp(float(here), dtype) == float(above) - float(here)
