"""Sabotaged shapers."""

from __future__ import annotations

import random

import attrs
from attrs import evolve

from toolkit.interfaces import Expand, TreeShaper
from toolkit.tree import Candidates, TokenTree


def _level(root: TokenTree, expand: Expand, k: int) -> TokenTree:
    """The root and its children."""
    return root.grow([0], expand(root, [0], k))


@attrs.define
class OverBudget(TreeShaper):
    """Declares three nodes and grows as many as it likes."""

    name = "over-budget"

    @property
    def nodes(self) -> int:
        return 3

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        return _level(root, expand, 8)


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
            grown = tree.grow([tip], expand(tree, [tip], 1))
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
        tree = _level(root, expand, 2)
        return evolve(tree, tokens=[token + 1 for token in tree.tokens])


@attrs.define
class Orphans(TreeShaper):
    """Hangs every node on the committed text, beside the root."""

    name = "orphans"
    nodes: int = 8

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = _level(root, expand, 2)
        return evolve(tree, parents=[-1] * len(tree))


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
            grown = tree.grow([tip], expand(tree, [tip], 1))
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
        candidates = expand(root, [0], 2)
        count = 1 if candidates.logprobs[0][0] > -0.1 else 2
        first = Candidates([candidates.tokens[0][:count]], [candidates.logprobs[0][:count]])
        return root.grow([0], first)


@attrs.define
class AsksOn(TreeShaper):
    """Asks until there are eight nodes, whether or not any come."""

    name = "asks-on"
    nodes: int = 9

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = root
        while len(tree) < self.nodes:
            tip = len(tree) - 1
            tree = tree.grow([tip], expand(tree, [tip], 1))
        return tree
