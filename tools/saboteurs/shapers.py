"""Broken tree shapers."""

from __future__ import annotations

import random

import attrs
from attrs import evolve

from toolkit.interfaces import Expand, TreeShaper
from toolkit.tree import Candidates, TokenTree


def _level(root: TokenTree, expand: Expand, k: int) -> TokenTree:
    """Grow the root and its children."""
    return root.grow([0], expand(root, [0], k))


@attrs.define
class OverBudget(TreeShaper):
    """Declares three nodes but grows more."""

    name = "over-budget"

    @property
    def nodes(self) -> int:
        return 3

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        return _level(root, expand, 8)


_calls: list[int] = []


@attrs.define
class KeepsState(TreeShaper):
    """Takes its depth from a counter in the module, which outlives the request."""

    name = "keeps-state"

    @property
    def nodes(self) -> int:
        return 64

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        _calls.append(1)
        tree = root
        for tip in range(1 + len(_calls) % 5):
            grown = tree.grow([tip], expand(tree, [tip], 1))
            if len(grown) == len(tree):
                break
            tree = grown
        return tree


@attrs.define
class AnotherRoot(TreeShaper):
    """Replaces the root by another token."""

    name = "another-root"
    nodes: int = 8

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = _level(root, expand, 2)
        return evolve(tree, tokens=[token + 1 for token in tree.tokens])


@attrs.define
class Orphans(TreeShaper):
    """Gives every node the committed text as its parent, beside the root."""

    name = "orphans"
    nodes: int = 8

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = _level(root, expand, 2)
        return evolve(tree, parents=[-1] * len(tree))


@attrs.define
class PrunesInSecret(TreeShaper):
    """Declares that it keeps every candidate, but drops the unlikeliest."""

    name = "prunes-in-secret"
    prunes = False
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = _level(root, expand, 4)
        return tree.best(max(1, len(tree) - 1))


@attrs.define
class TossesForDepth(TreeShaper):
    """Draws its depth with the global random generator."""

    name = "tosses-for-depth"
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = root
        for tip in range(random.randrange(1, 8)):
            grown = tree.grow([tip], expand(tree, [tip], 1))
            if len(grown) == len(tree):
                break
            tree = grown
        return tree


@attrs.define
class ExpectsCandidates(TreeShaper):
    """Reads the likeliest candidate, but near the end of a request there is none."""

    name = "expects-candidates"
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        candidates = expand(root, [0], 2)
        count = 1 if candidates.logprobs[0][0] > -0.1 else 2
        first = Candidates([candidates.tokens[0][:count]], [candidates.logprobs[0][:count]])
        return root.grow([0], first)


@attrs.define
class AsksOn(TreeShaper):
    """Calls `expand` until it has its nodes, even if no candidates come."""

    name = "asks-on"
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = root
        while len(tree) < self.nodes:
            tip = len(tree) - 1
            tree = tree.grow([tip], expand(tree, [tip], 1))
        return tree
