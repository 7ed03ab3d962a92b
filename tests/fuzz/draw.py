"""Random cases: Hypothesis draws them, from the same generators that the conformance kit uses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import hypothesis
import hypothesis.strategies as st
from case import REGISTRY, Case, Request
from hypothesis import HealthCheck, Phase, settings

from toolkit.conformance.cases import KINDS, choices, token_identical
from toolkit.conformance.models import DRAFT_MODEL, FAMILIES, VOCABULARY

TOGETHER = 10  # cases drawn at a time; beyond ten Hypothesis varies what it has drawn already
HOW = [  # dtype, executor, kernels
    ("fp64", "auto", True),
    ("fp64", "module", True),
    ("fp32", "auto", True),
    ("fp32", "auto", False),
    ("fp32", "module", True),
    ("bf16", "auto", True),
]


def requests() -> st.SearchStrategy[Request]:
    """Prompts of 1 to 60 ids, many of them repeating, and 1 to 48 tokens after them."""
    words = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=60)
    prompts = st.builds(
        lambda ids, length: tuple(itertools.islice(itertools.cycle(ids), length)),
        words,
        st.integers(1, 60),
    )
    return st.builds(Request, prompts, st.integers(1, 48), st.sampled_from([1, 2, 4]))


def cases(sabotage: str) -> st.SearchStrategy[Case]:
    """Cases of every registered strategy with any options; some do not fit together.

    `sabotage` goes into each of them.
    """
    specs = {kind: choices(kind, REGISTRY).map(str) for kind in KINDS}
    verifiers = st.sampled_from(token_identical(REGISTRY))  # others have the law of AR, not its tokens
    return st.builds(
        lambda how, **rest: Case(dtype=how[0], executor=how[1], kernels=how[2], **rest),
        st.sampled_from(HOW),
        requests=st.lists(requests(), min_size=1, max_size=4).map(tuple),
        family=st.sampled_from(sorted(FAMILIES)),
        seed=st.integers(0, 999),
        noise=st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.5]),
        stops=st.sampled_from([(), (0,), (0, 7, 19, 31, 43, 55, 67, 79, 91)]),
        drafter=st.just(f"model:{DRAFT_MODEL}") | specs["drafter"],
        shaper=specs["shaper"],
        verifier=verifiers,
        kv=st.just("full") | specs["kv"],
        draft_kv=st.just("full") | specs["kv"],
        sabotage=st.just(sabotage),
    )


def drawn(seed: int, sabotage: str = "") -> Iterator[Case]:
    """Cases without end; a seed gives the same ones again."""
    for block in itertools.count():
        yield from _together(seed * 1_000_000 + block, sabotage)


def _together(seed: int, sabotage: str) -> list[Case]:
    rules = settings(
        max_examples=TOGETHER,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    found: list[Case] = []

    @hypothesis.seed(seed)
    @rules
    @hypothesis.given(cases(sabotage))
    def keep(case: Case) -> None:
        found.append(case)

    keep()
    return found[1:]  # the first is the simplest one, each time the same
