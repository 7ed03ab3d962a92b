"""Limits: the likeliest nodes of a tree stay, the tokens stay AR's, and a wrong number is named."""

from collections import Counter

import attrs
import pytest
import saboteurs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import Limits, Pipeline, Pool, Registry, Sampling, TokenTree, ToolkitError
from toolkit.conformance.enumeration import ROUNDING, emitted, language, redrawn, worst_error
from toolkit.conformance.generators import prompts, trees
from toolkit.conformance.models import COSTS, noisy, tiny
from toolkit.tree import Candidates


def breaks(limits, tree, cut):
    """What a cut tree lacks: to be a tree, to be within the limits, to have kept the likeliest."""
    found = set()
    widths = Counter(cut.depths)
    if not cut.is_valid():
        found.add("a tree")
    if limits.max_nodes and len(cut) > limits.max_nodes:
        found.add("nodes")
    if limits.max_nodes_per_level and max(widths.values()) > limits.max_nodes_per_level:
        found.add("nodes per level")
    if (
        sorted(cut.path_logprobs, reverse=True)[: len(cut)]
        != sorted(sorted(tree.path_logprobs, reverse=True)[: len(cut)], reverse=True)
        and not limits.max_nodes_per_level
    ):
        found.add("likeliest")
    return found


@given(trees(nodes=24), st.none() | st.integers(1, 6), st.none() | st.integers(1, 24))
def test_a_cut_tree_is_within_the_limits_and_keeps_the_likeliest(tree, per_level, most):
    limits = Limits(per_level, most)
    assert breaks(limits, tree, limits.cut(tree)) == set()


def test_these_checks_can_fail():
    rows = [[3, 4, 5]], [[-0.5, -1.5, -2.0]]
    tree = TokenTree.root(1).grow([0], Candidates(*rows))
    assert breaks(Limits(2, 3), tree, tree) == {"nodes", "nodes per level"}
    assert breaks(Limits(None, 2), tree, tree.subtree([0, 2])) == {"likeliest"}


def test_a_level_keeps_its_likeliest_nodes():
    tree = TokenTree.root(1).grow([0], Candidates([[3, 4, 5]], [[-1.5, -0.5, -2.0]]))
    tree = tree.grow([1, 2, 3], Candidates([[6], [7], [8]], [[-0.1], [-3.0], [-0.1]]))
    assert Limits(max_nodes_per_level=2).cut(tree).tokens == [1, 3, 4, 6, 7]
    assert Limits(max_nodes_per_level=1).cut(tree).tokens == [1, 4, 7]


def test_of_drawn_nodes_the_first_stay():
    """Whatever their probabilities: a choice by what was drawn would change the law of the output."""
    laws = torch.full((1, 9), 1 / 9, dtype=torch.double)
    tree = TokenTree.root(1).grow([0], Candidates([[3, 4, 5]], [[-1.5, -0.5, -2.0]], laws))
    for limits in (Limits(max_nodes_per_level=2), Limits(max_nodes=3)):
        assert limits.cut(tree).tokens == [1, 3, 4]


@given(trees(nodes=16))
def test_without_limits_a_tree_is_itself(tree):
    assert Limits().cut(tree) is tree
    assert Limits(max_nodes_per_level=16, max_nodes=16).cut(tree) is tree


def decode(limits, prompt=(5, 9), count=16, shaper="fixed", **choices):
    pipeline = Pipeline(
        tiny("llama", 1, ()), drafter="model:noisy", shaper=shaper, limits=limits,
        pool=Pool(modules={"noisy": noisy("llama", 1, 0.02)}, costs=COSTS),
        registry=Registry.installed(), **choices,
    )  # fmt: skip
    return pipeline.generate(list(prompt), max_new_tokens=count)


def is_exact(limits, prompt, shaper, sampling):
    """Whether the tokens are AR's: those of trees of one node, which draft nothing."""
    found, ar = (
        decode(each, prompt, shaper=shaper, sampling=sampling) for each in (limits, Limits(None, 1))
    )
    assert max(step.nodes for step in found.steps) <= limits.max_nodes
    return found.token_ids == ar.token_ids


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["chain", "fixed", "adaptive", "budget", "planned"]), prompts(),
    st.integers(1, 3), st.integers(1, 6), st.sampled_from([Sampling(), Sampling(0.9)]),
)  # fmt: skip
def test_the_tokens_are_those_of_ar(shaper, prompt, per_level, most, sampling):
    assert is_exact(Limits(per_level, most), prompt, shaper, sampling)


def test_a_commit_of_other_nodes_than_the_cut_trees_is_caught():
    with saboteurs.machinery.wrong_row_kept():
        assert not is_exact(Limits(2, 6), (5, 9), "fixed", Sampling())


class Likeliest(Limits):
    """Cuts drawn trees as it cuts others: by what was drawn."""

    def cut(self, tree):
        return attrs.evolve(super().cut(attrs.evolve(tree, laws={})), laws=tree.laws)


@pytest.mark.parametrize("name", ["swor", "traversal"])
@pytest.mark.parametrize("numbers", [(2, None), (None, 3)])
def test_drawn_trees_that_are_cut_give_ars_law(make, name, numbers):
    """Exactly, by enumeration of all draws; a cut by likelihood does not."""
    target, draft, sampling = language(1, 3), language(2, 3), Sampling(1.0)
    star = TokenTree.root(0).grow([0], Candidates([[0, 0, 0]], [[-1.0, -1.0, -1.0]]))

    def error(limits):
        def grow(step, text, chance):
            return limits.cut(redrawn(star, text, draft, chance))

        return worst_error(
            emitted(lambda: make("verifier", name), target, grow, sampling, 1), target, sampling
        )

    assert error(Limits(*numbers)) <= ROUNDING
    assert error(Likeliest(*numbers)) > 0.01


def test_limits_are_felt():
    sizes = [
        max(step.nodes for step in decode(limits).steps)
        for limits in (Limits(), Limits(max_nodes=4), Limits(max_nodes_per_level=1))
    ]
    assert sizes[0] > 6
    assert sizes[1] == 4
    assert sizes[2] <= 6


def test_a_request_ends_when_its_seconds_have_passed():
    whole, ended = decode(Limits()), decode(Limits(max_seconds=1e-9))
    assert (ended.stop_reason, whole.stop_reason) == ("time", "length")
    assert ended.token_ids == whole.token_ids[:1]


@pytest.mark.parametrize(
    "wrong", [{"max_nodes": 0}, {"max_seconds": -1.0}, {"max_seconds": float("nan")}]
)
def test_a_wrong_number_is_named(wrong):
    with pytest.raises(ToolkitError, match=f"{next(iter(wrong))}=.*above 0"):
        Limits(**wrong)


def test_limits_in_words():
    assert str(Limits()) == ""
    assert str(Limits(8, None, 2.5)) == "max_nodes_per_level=8,max_seconds=2.5"
