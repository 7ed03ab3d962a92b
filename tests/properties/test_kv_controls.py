"""Negative controls of KV policies: each way to break them is caught by a named property."""

import copy
import itertools

import pytest
import torch

from toolkit import Choice, Pool, Registry
from toolkit.conformance import kv, kv_saboteurs, properties
from toolkit.conformance.generators import Case
from toolkit.conformance.models import tiny
from toolkit.conformance.properties import Broken
from toolkit.runtime.kernels import native
from toolkit.runtime.session import ModelSession

REGISTRY = Registry.installed()
TEXT = [(7 * i * i + 3 * i) % 23 + 1 for i in range(72)]
PROMPT = 20
SCHEDULE = [
    kv.Pass(accepted=i % 7, wrong=((0, 30 + i), (1, 50 + i), (2, 70 - i), (0, 9))) for i in range(60)
]
H2O = "h2o:budget=10,recent=3,sinks=1,epoch=4"


def sessions(spec, families=("llama", "gpt_neox", "gpt2"), dtype=torch.float64, executor="auto"):
    choice = REGISTRY.resolve("kv", spec)
    for family, seed in itertools.product(families, range(3)):
        module = tiny(family, seed)
        module = module if dtype == torch.float64 else copy.deepcopy(module).to(dtype)
        pool = Pool(modules={"it": module}, executor=executor)
        yield lambda pool=pool: ModelSession(pool.load("it"), choice.build())


def schedule_breaks(spec, tolerance=properties.TOLERANCE, text=TEXT, **which):
    """How many models see the schedule; every one of them evicts."""
    broken = 0
    for make in sessions(spec, **which):
        try:
            assert kv.schedule_does_not_matter(make, text, PROMPT, SCHEDULE, tolerance) > 0
        except Broken:
            broken += 1
    return broken


def budget_breaks(spec):
    for make in sessions(spec):
        try:
            kv.protected_rows_stay(make(), TEXT, PROMPT)
        except Broken as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    "spec", [H2O, "knorm:budget=10,epoch=4", "headaware:budget=10,sinks=1,epoch=4"]
)
def test_honest_policies_pass(spec):
    assert schedule_breaks(spec) == 0
    assert budget_breaks(spec) == ""


@pytest.mark.parametrize(
    ("saboteur", "spec"),
    [
        (kv_saboteurs.rejected_nodes_score, H2O),
        (kv_saboteurs.evicts_per_pass, H2O),
        (kv_saboteurs.clock_counts_passes, H2O),
        (kv_saboteurs.lag_ignored, H2O),
        (kv_saboteurs.commits_beyond_the_epoch, H2O.replace("epoch=4", "epoch=2")),
        (kv_saboteurs.ties_by_chance, "knorm:budget=10,epoch=4"),
        (kv_saboteurs.empty_rows_seen, "headaware:budget=12,recent=1,sinks=1,epoch=4,mass=0.5"),
    ],
    ids=lambda thing: getattr(thing, "__name__", ""),
)
def test_eviction_that_sees_the_schedule_is_caught(saboteur, spec):
    assert schedule_breaks(spec) == 0
    with saboteur():
        assert schedule_breaks(spec) > 0


def test_one_position_too_many_is_caught():
    with kv_saboteurs.budget_off_by_one():
        assert "a budget of 10" in budget_breaks(H2O)


def test_a_recent_position_evicted_is_caught():
    with kv_saboteurs.recent_evicted():
        assert "are protected" in budget_breaks(H2O)


def test_scores_kept_across_requests_are_caught():
    choice = Choice(kv_saboteurs.RemembersScores)
    specs = {"drafter": "model:noisy", "shaper": "budget", "verifier": "greedy"}
    case = Case(
        family="llama", seed=0, noise=0.02, prompt=tuple(TEXT[:PROMPT]), max_new_tokens=24, stops=(),
        **{kind: REGISTRY.resolve(kind, spec) for kind, spec in specs.items()},
        kv=choice, draft_kv=REGISTRY.resolve("kv", "full"),
    )
    with pytest.raises(Broken, match="a second request"):
        properties.requests_are_independent(case, REGISTRY)


def test_comparing_to_the_last_bit_is_caught():
    """In fp32 a stock pass of one row and one of many round differently; equal tokens then have norms
    that are equal or not. Rounded, they are equal."""
    words = [5, 9, 33]
    text = [words[i % 3] for i in range(72)]
    run = {"spec": "knorm:budget=10,epoch=4", "dtype": torch.float32, "tolerance": 1e-2, "text": text}
    with native.using(None):
        assert schedule_breaks(**run, executor="module") == 0
        with kv_saboteurs.unrounded_scores():
            assert schedule_breaks(**run, executor="module") > 0
