"""The promise: every registered combination emits exactly AR's tokens and holds exactly AR's cache.

In CI a pairwise covering array, each with random cases, and random draws from the whole product;
the whole product in the `nightly` profile (TOOLKIT_PROFILE=nightly).
"""

import os

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from toolkit import Registry
from toolkit.conformance import cases
from toolkit.conformance.properties import decoding
from toolkit.runtime.kv import cache, eviction, positions

REGISTRY = Registry.installed()
PRODUCT = cases.product(REGISTRY)
NIGHTLY = os.environ.get("TOOLKIT_PROFILE") == "nightly"
COMBINATIONS = PRODUCT if NIGHTLY else cases.pairwise(PRODUCT)
QUICK = os.environ.get("TOOLKIT_PROFILE", "quick") == "quick"
EXAMPLES = settings(max_examples=12 if QUICK else settings.default.max_examples)  # of each


def named(combination):
    return "-".join(combination.values())


def test_every_kind_is_covered():
    assert not REGISTRY.broken
    for kind in cases.KINDS:
        names = REGISTRY.names(kind)
        if kind == "verifier":
            names = cases.token_identical(REGISTRY)
        assert {c[kind] for c in COMBINATIONS} == set(names) != set()


def tokens_and_cache_equal_ar(case):
    """Both properties on one pair of decodings."""
    decoding.require_same_tokens(*decoding.cache_equals_ar(case, REGISTRY), case)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=named)
def test_tokens_and_cache_equal_ar(combination):
    EXAMPLES(given(cases.cases(REGISTRY, combination))(tokens_and_cache_equal_ar))()


@pytest.mark.parametrize("holds", decoding.PER_CASE, ids=lambda holds: holds.__name__)
def test_anything_goes(holds):
    @settings(max_examples=2 * settings.default.max_examples)
    @given(st.sampled_from(PRODUCT).flatmap(lambda c: cases.cases(REGISTRY, c)))
    def tried(case):
        holds(case, REGISTRY)

    tried()


def test_acceptances_are_mixed():
    """The cases mean something: some drafts are accepted and some rejected."""
    accepted = rejected = 0
    for seed in range(6):
        case = cases.Case(
            family="llama",
            seed=seed,
            noise=0.02,
            prompt=(5, 9, 33, 4),
            max_new_tokens=32,
            stops=(0,),
            **{
                k: REGISTRY.resolve(k, v)
                for k, v in {
                    "drafter": "model:noisy",
                    "shaper": "budget",
                    "verifier": "greedy",
                    "kv": "full",
                }.items()
            },
            draft_kv=REGISTRY.resolve("kv", "full"),
        )
        for step in decoding.decode(case.pipeline(REGISTRY), case).result.steps:
            accepted += step.accepted
            rejected += step.nodes - 1 - step.accepted
    assert accepted > 20
    assert rejected > 20


def test_chunks_and_growth_do_not_matter(monkeypatch):
    """A prompt in chunks of four and a cache that grows by eight rows give the same tokens."""
    monkeypatch.setattr(eviction, "CHUNK", 4)
    monkeypatch.setattr(cache, "GROWTH", 8)
    monkeypatch.setattr(positions, "GROWTH", 8)

    any_case = st.sampled_from(PRODUCT).flatmap(lambda c: cases.cases(REGISTRY, c))
    given(any_case)(tokens_and_cache_equal_ar)()
