"""`specinfer`: exact laws by enumeration, with draws that may repeat."""

import pytest

from toolkit import Sampling
from toolkit.conformance.enumeration import ROUNDING, language

SHAPES = {"star": (0, 0, 0), "chain": (0, 1, 2), "fork": (0, 0, 1)}


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.4, top_p=0.8)], ids=str)
@pytest.mark.parametrize("parents", SHAPES.values(), ids=SHAPES)
def test_independent_draws_give_ars_law(law_of, grow_by, parents, sampling):
    grow = grow_by(language(2, 3), parents, replace=True)
    assert law_of("specinfer", language(1, 3), grow, sampling)[0] <= ROUNDING


def test_two_steps_have_ars_joint_law(law_of, grow_by):
    grow = grow_by(language(5, 2), (0, 0), (0, 1), replace=True)
    assert law_of("specinfer", language(3, 2), grow, Sampling(0.8), 2)[0] <= ROUNDING


def test_a_node_accepts_by_the_closed_form(law_of, grow_by):
    """Σ_i Π_{j<i} (1 − β_j) · β_i with β_i = Σ min(p_i, q)."""
    target, draft = language(1, 4), language(2, 4)
    p, q, left, accepted = target((0,)).softmax(-1), draft((0,)).softmax(-1), 1.0, 0.0
    for _ in range(3):
        share = float(p.minimum(q).sum())
        accepted += left * share
        left *= 1 - share
        p = (p - q).clamp_min(0)
        p = p / p.sum()
    tokens = law_of("specinfer", target, grow_by(draft, (0, 0, 0), replace=True))[1]
    assert tokens - 1 == pytest.approx(accepted, abs=1e-12)


@pytest.mark.parametrize(("name", "replace"), [("specinfer", False), ("swor", True)])
def test_draws_of_the_other_kind_are_caught(law_of, grow_by, name, replace):
    grow = grow_by(language(2, 4), (0, 0), replace=replace)
    assert law_of(name, language(1, 4), grow)[0] > 1e-3
