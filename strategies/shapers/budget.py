"""EAGLE-2 style: expand the likeliest nodes level by level, verify the likeliest N.

EAGLE-2's expand and re-rank (Li et al. 2024); OPT-Tree (Wang et al. 2024) shows that the N likeliest
nodes by path probability are the tree of N nodes with the greatest expected accepted length. That needs
probabilities of acceptance, so the drafter's are calibrated by the request's own verdicts.
"""

from __future__ import annotations

from math import inf, log
from time import perf_counter

import attrs
from attrs.validators import ge, gt

from toolkit import Expand, TokenTree, TreeShaper, Trust, Verdict, option


@attrs.define(eq=False)
class Budget(TreeShaper):
    """EAGLE-2 style: expands the likeliest nodes of each level, then keeps the likeliest `nodes`.

    A node is as likely as the product along its path of the drafter's probabilities, calibrated by the
    verdicts so far. The first trees are those of the drafter's own probabilities.
    """

    name = "budget"
    nodes: int = option(24, help="most nodes to verify, root included", validator=ge(1))
    depth: int = option(6, help="levels below the root", validator=ge(1))
    width: int = option(4, help="nodes expanded per level, and children of each", validator=ge(1))
    seconds: float = option(
        inf,
        help="time after which no further level is grown, per step",
        validator=gt(0),
        timed=True,
    )

    _trust: Trust = attrs.field(init=False, factory=lambda: Trust([0.0, 1.0, 0.0]))

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, frontier = root, [0]
        worths = [0.0]  # by node: the log-probability that it is accepted
        until = perf_counter() + self.seconds
        for _ in range(self.depth):
            candidates = expand(tree, frontier, self.width)
            first = len(tree)
            tree = tree.grow(frontier, candidates)
            for node, row in zip(frontier, candidates.logprobs, strict=True):
                accepted = self._trust(1.0, [each for each in row if each > -inf], 0.0)
                worths += [worths[node] + log(share) for share in accepted]
            if len(tree) == first or perf_counter() >= until:
                break
            frontier = _choose(range(first, len(tree)), worths, self.width)
        return tree.subtree(_choose(range(len(tree)), worths, self.nodes))

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        self._trust.observe(tree, verdict)


def _choose(nodes: range, worths: list[float], count: int) -> list[int]:
    """The `count` likeliest of `nodes`, ascending ids; the first of equals, so a parent before its
    child."""
    return sorted(sorted(nodes, key=worths.__getitem__, reverse=True)[:count])
