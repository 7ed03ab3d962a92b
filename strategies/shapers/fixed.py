"""SpecInfer style: a tree of fixed depth and branching (Miao et al. 2024; DynaTree's baseline)."""

from __future__ import annotations

from math import exp

import attrs
from attrs.validators import and_, ge, le

from toolkit import Expand, GrowMap, TokenTree, TreeShaper, option


@attrs.define
class Fixed(TreeShaper):
    """SpecInfer style: `branch` children per node, `depth` levels, improbable nodes not expanded."""

    name = "fixed"
    depth: int = option(4, help="levels below the root", validator=ge(1))
    branch: int = option(2, help="children per node", validator=ge(1))
    threshold: float = option(
        0.05,
        help="path probability below which a node is not expanded",
        validator=and_(ge(0), le(1)),
    )
    nodes: int = option(64, help="most nodes, root included, breadth first", validator=ge(1))

    @property
    def shape(self) -> GrowMap | None:
        if self.threshold > 0:
            return None  # which nodes are expanded depends on their probabilities
        whole = sum(self.branch**level for level in range(min(self.depth, self.nodes) + 1))
        return GrowMap([(node - 1) // self.branch for node in range(min(whole, self.nodes))])

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, first = root, 0
        for _ in range(self.depth):
            level = enumerate(tree.path_logprobs[first : self.nodes], first)
            frontier = [node for node, score in level if exp(score) >= self.threshold]
            if not frontier or len(tree) >= self.nodes:
                break
            first, tree = len(tree), tree.grow(frontier, expand(tree, frontier, self.branch))
        return tree.first(self.nodes)
