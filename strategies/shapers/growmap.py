"""Static tree: the number of children of each node is fixed in advance (Sequoia, Medusa)."""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import Any

import attrs

from toolkit import Expand, TokenTree, TreeShaper, option


def _require_counts(_: object, attribute: Any, value: str) -> None:
    if not all(part.isascii() and part.isdecimal() and int(part) for part in value.split("x")):
        raise ValueError(f"{attribute.name}={value!r}: expected children per level, as in 4x2x1")


@attrs.define
class Growmap(TreeShaper):
    """Static tree: a fixed number of children per node at each level (Sequoia, Medusa).

    It does not read the candidates, so drawn ones keep their law.
    """

    name = "growmap"
    prunes = False
    branching: str = option(
        "4x2x1x1", help="children per node, level by level, joined by x", validator=_require_counts
    )

    @property
    def counts(self) -> list[int]:
        """Children per node, level by level."""
        return [int(part) for part in self.branching.split("x")]

    @property
    def nodes(self) -> int:
        return 1 + sum(accumulate(self.counts, mul))

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, frontier = root, [0]
        for count in self.counts:
            first, tree = len(tree), tree.grow(frontier, expand(tree, frontier, count))
            frontier = list(range(first, len(tree)))
            if not frontier:
                break
        return tree
