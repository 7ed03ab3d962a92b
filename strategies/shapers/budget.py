"""EAGLE-2 style: expand the likeliest nodes level by level, verify the likeliest N.

EAGLE-2's expand and re-rank (Li et al. 2024); OPT-Tree (Wang et al. 2024) shows that the N likeliest
nodes by path probability are the tree of N nodes with the greatest expected accepted length.
"""

from __future__ import annotations

import math
from time import perf_counter

import attrs
from attrs.validators import ge, gt

from toolkit import Expand, TokenTree, TreeShaper, option


@attrs.define
class Budget(TreeShaper):
    """EAGLE-2 style: expands the likeliest nodes of each level, then keeps the likeliest `nodes`."""

    name = "budget"
    nodes: int = option(24, help="most nodes to verify, root included", validator=ge(1))
    depth: int = option(6, help="levels below the root", validator=ge(1))
    width: int = option(4, help="nodes expanded per level, and children of each", validator=ge(1))
    seconds: float = option(
        math.inf,
        help="time after which no further level is grown, per step",
        validator=gt(0),
        timed=True,
    )

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, frontier = root, [0]
        until = perf_counter() + self.seconds
        for _ in range(self.depth):
            candidates = expand(tree, frontier, self.width)
            first = len(tree)
            tree = tree.grow(frontier, candidates)
            if len(tree) == first or perf_counter() >= until:
                break
            frontier = self._choose_frontier(tree, first)
        return tree.best(self.nodes)

    def _choose_frontier(self, tree: TokenTree, first: int) -> list[int]:
        """The `width` likeliest nodes of the last level, ascending ids."""
        last = range(first, len(tree))
        best = sorted(last, key=tree.path_logprobs.__getitem__, reverse=True)
        return sorted(best[: self.width])
