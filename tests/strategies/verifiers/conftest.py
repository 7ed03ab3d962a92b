"""Exact laws of verifiers on drawn trees, by enumeration."""

import pytest

from toolkit import Candidates, Sampling, TokenTree
from toolkit.conformance.enumeration import emitted, redrawn, worst_error


def shape(parents):
    """A tree in which only the numbers of children count."""
    tree = TokenTree.root(0)
    for parent in parents:
        tree = tree.grow([parent], Candidates([[0]], [[-1.0]]))
    return tree


@pytest.fixture(scope="session", name="shape")
def _shape():
    return shape


@pytest.fixture(scope="session")
def grow_by():
    """`grow` for drawn trees, one for each step; `change` sabotages what was drawn."""

    def grow_by(draft, *parents, change=lambda tree: tree, **how):
        shapes = [shape(each) for each in parents]
        return lambda step, text, chance: change(redrawn(shapes[step], text, draft, chance, **how))

    return grow_by


@pytest.fixture(scope="session")
def law_of(make):
    """The error of a verifier's law against AR's, and the expected number of tokens of a step."""

    def law_of(name, target, grow, sampling=Sampling(1.0), steps=1):  # noqa: B008
        law = emitted(lambda: make("verifier", name), target, grow, sampling, steps)
        return worst_error(law, target, sampling), sum(p * len(text) for text, p in law.items())

    return law_of


@pytest.fixture(scope="session")
def planted_at_every_step():
    """`grow` for one tree chosen deterministically, as (parent, token) rows."""

    def planted(*rows):
        def grow(step, text, chance):
            tree = TokenTree.root(text[-1])
            for parent, token in rows:
                tree = tree.grow([parent], Candidates([[token]], [[-1.0]]))
            return tree

        return grow

    return planted
