"""`hybrid`: exact laws by enumeration, and the most that a node can accept."""

import itertools

import attrs
import pytest
import torch

from toolkit import Sampling
from toolkit.conformance.enumeration import ROUNDING, language

SAMPLINGS = [Sampling(1.0), Sampling(0.6), Sampling(1.4, top_p=0.8), Sampling(2.0, top_k=2)]
SHAPES = {"star": (0, 0, 0), "fork": (0, 0, 1), "deep fork": (0, 0, 1, 1)}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("parents", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_mixed_children_give_ars_law(law_of, grow_by, parents, sampling, fixed):
    grow = grow_by(language(2, 3), parents, fixed=fixed)
    assert law_of("hybrid", language(1, 3), grow, sampling)[0] <= ROUNDING


def test_two_steps_have_ars_joint_law(law_of, grow_by):
    grow = grow_by(language(5, 3), (0, 0), (0, 0, 1), fixed=1)
    assert law_of("hybrid", language(3, 3), grow, Sampling(0.8), 2)[0] <= ROUNDING


def bound(p, q, fixed):
    """The most that any lossless rule accepts at a node: min over H ⊆ V of 1 + p(H) − P(C ⊆ H), where
    the children C are `fixed` and one that is drawn from q off them."""
    off = q.index_fill(0, torch.tensor(fixed), 0.0)
    off = off / off.sum()
    return min(
        1 + float(p[list(h)].sum()) - float(off[list(h)].sum()) * {*fixed}.issubset(h)
        for size in range(len(p) + 1)
        for h in itertools.combinations(range(len(p)), size)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fixed", [1, 2])
def test_a_node_with_one_drawn_child_accepts_the_most_that_is_possible(
    law_of, grow_by, seed, fixed
):
    target, draft = language(seed, 4), language(seed + 50, 4)
    grow = grow_by(draft, (0,) * (fixed + 1), fixed=fixed)
    p, q = target((0,)).softmax(-1), draft((0,)).softmax(-1)
    most = bound(p, q, q.topk(fixed).indices.tolist())
    accepted = {name: law_of(name, target, grow)[1] - 1 for name in ("hybrid", "swor")}
    assert accepted["hybrid"] == pytest.approx(most, abs=1e-9)
    assert accepted["swor"] <= most + 1e-9


def test_drawn_children_alone_are_accepted_as_by_swor_and_chosen_ones_as_by_sampler_match(
    law_of, grow_by, planted_at_every_step
):
    target, drawn = language(1, 3), grow_by(language(2, 3), (0, 0, 1))
    chosen = planted_at_every_step((0, 2), (0, 1), (1, 0))
    for grow, rule in ((drawn, "swor"), (chosen, "sampler-match")):
        tokens = [law_of(name, target, grow)[1] for name in ("hybrid", rule)]
        assert tokens[0] == pytest.approx(tokens[1], abs=1e-12)


def test_children_that_are_not_marked_are_caught(law_of, grow_by):
    """A likeliest token that counts as drawn."""
    unmarked = lambda tree: attrs.evolve(tree, fixed=frozenset())  # noqa: E731
    grow = grow_by(language(2, 4), (0, 0), fixed=1, change=unmarked)
    assert law_of("hybrid", language(1, 4), grow)[0] > 1e-3
