"""Speculative decoding with a linear draft (Leviathan et al. 2023)."""

from __future__ import annotations

import attrs
from attrs.validators import ge

from toolkit import Expand, GrowMap, TokenTree, TreeShaper, option


@attrs.define
class Chain(TreeShaper):
    """Linear draft: the likeliest continuation, `k` tokens long."""

    name = "chain"
    prunes = False
    k: int = option(5, help="drafted tokens", validator=ge(1))

    @property
    def nodes(self) -> int:
        return self.k + 1

    @property
    def shape(self) -> GrowMap:
        return GrowMap.of_counts([1] * self.k)

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree = root
        for tip in range(self.k):
            grown = tree.grow([tip], expand(tree, [tip], 1))
            if len(grown) == len(tree):
                break
            tree = grown
        return tree
