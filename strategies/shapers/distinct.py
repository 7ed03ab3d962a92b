"""Dynamic tree of the distinct tokens of independent draws (Dynasurge's, made exact)."""

from __future__ import annotations

from math import exp
from random import Random

import attrs
from attrs.validators import ge

from toolkit import Candidates, Expand, TokenTree, TreeShaper, option


@attrs.define
class Distinct(TreeShaper):
    """Dynamic tree: each node gets as many children as `width` independent draws have distinct tokens.

    A node where the drafter is sure repeats its draws and gets fewer children, so the tree becomes
    deeper there. Children keep the order in which their tokens first appear. That is the order of draws
    without replacement, and whether there is a further child depends on the earlier ones alone. So
    drawn candidates keep their law. Candidates that were not drawn do not repeat.
    """

    name = "distinct"
    prunes = False
    nodes: int = option(33, help="most nodes to verify, root included", validator=ge(1))
    width: int = option(3, help="independent draws of each node", validator=ge(1))
    depth: int = option(
        8, help="levels below the root, each a pass of the drafter", validator=ge(1)
    )

    _random: Random = attrs.field(init=False, factory=lambda: Random(0))  # noqa: S311 no secret

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, level = root, [0]
        while level and tree.depth < self.depth and len(tree) < self.nodes:
            left = self.nodes - len(tree)
            drafted = expand(tree, level, min(self.width, left))
            counts = []
            for row in range(len(level)):
                counts.append(min(self._count(drafted, row), left))
                left -= counts[-1]
            first = len(tree)
            tree = tree.grow(level, drafted.first(counts))
            level = [*range(first, len(tree))]
        return tree

    def _count(self, drafted: Candidates, row: int) -> int:
        """How many candidates of a row `width` independent draws would find."""
        logprobs = drafted.logprobs[row]
        if drafted.laws is None:
            return len(logprobs)
        count, seen = 0, 0.0  # `seen`: the probability that a draw repeats one
        for _ in range(self.width):
            if count < len(logprobs) and self._random.random() >= seen:
                seen += exp(logprobs[count])
                count += 1
        return count
