"""Sabotaged shapers."""

from __future__ import annotations

import random

import attrs
import torch
from attrs import evolve

from toolkit.interfaces import Expand, TreeShaper
from toolkit.tree import TokenTree


def _level(root: TokenTree, expand: Expand, k: int) -> TokenTree:
    """The root and its children."""
    frontier = torch.zeros(1, dtype=torch.long)
    return root.grow(frontier, expand(root, frontier, k))


@attrs.define
class OverBudget(TreeShaper):
    """Declares three nodes and grows as many as it likes."""

    name = "over-budget"

    @property
    def nodes(self) -> int:
        return 3

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        frontier = torch.zeros(1, dtype=torch.long)
        return root.grow(frontier, expand(root, frontier, 8))


_seen: list[int] = []


@attrs.define
class KeepsState(TreeShaper):
    """Varies its depth with a counter in the module, which outlives the request."""

    name = "keeps-state"

    @property
    def nodes(self) -> int:
        return 64

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        _seen.append(1)
        tree = root
        for tip in range(1 + len(_seen) % 5):
            frontier = torch.tensor([tip])
            grown = tree.grow(frontier, expand(tree, frontier, 1))
            if len(grown) == len(tree):
                break
            tree = grown
        return tree


@attrs.define
class AnotherRoot(TreeShaper):
    """Starts from a root of its own."""

    name = "another-root"
    nodes: int = 8

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        return evolve(_level(root, expand, 2), tokens=_level(root, expand, 2).tokens + 1)


@attrs.define
class Orphans(TreeShaper):
    """Hangs every node on the committed text, beside the root."""

    name = "orphans"
    nodes: int = 8

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = _level(root, expand, 2)
        return evolve(tree, parents=torch.full_like(tree.parents, -1))


@attrs.define
class PrunesInSecret(TreeShaper):
    """Declares that it keeps whatever is drawn, and drops the unlikely."""

    name = "prunes-in-secret"
    prunes = False
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = _level(root, expand, 4)
        return tree.best(max(1, len(tree) - 1))


@attrs.define
class TossesForDepth(TreeShaper):
    """Draws how deep to go, and from the global generator."""

    name = "tosses-for-depth"
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = root
        for tip in range(random.randrange(1, 8)):
            frontier = torch.tensor([tip])
            grown = tree.grow(frontier, expand(tree, frontier, 1))
            if len(grown) == len(tree):
                break
            tree = grown
        return tree


@attrs.define
class ExpectsCandidates(TreeShaper):
    """Looks at the likeliest candidate, and near the end of a request there is none."""

    name = "expects-candidates"
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        frontier = torch.zeros(1, dtype=torch.long)
        candidates = expand(root, frontier, 2)
        sure = float(candidates.logprobs[0, 0]) > -0.1
        return root.grow(frontier, candidates, (torch.arange(2) < 2 - sure)[None, :])


@attrs.define
class AsksOn(TreeShaper):
    """Asks until there are eight nodes, whether or not any come."""

    name = "asks-on"
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = root
        while len(tree) < self.nodes:
            tip = torch.tensor([len(tree) - 1])
            tree = tree.grow(tip, expand(tree, tip, 1))
        return tree
