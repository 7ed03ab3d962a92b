"""A tree of fixed depth and branching (SpecInfer, Miao et al. 2024; DynaTree's baseline)."""

from __future__ import annotations

import attrs
import torch
from attrs.validators import and_, ge, le

from toolkit import Expand, TokenTree, TreeShaper, option


@attrs.define
class Fixed(TreeShaper):
    """`branch` children under every node, `depth` levels, improbable nodes not expanded."""

    name = "fixed"
    depth: int = option(4, help="levels below the root", validator=ge(1))
    branch: int = option(2, help="children per node", validator=ge(1))
    threshold: float = option(
        0.05,
        help="path probability below which a node is not expanded",
        validator=and_(ge(0), le(1)),
    )
    nodes: int = option(64, help="most nodes, root included, breadth first", validator=ge(1))

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, frontier = root, torch.zeros(1, dtype=torch.long)
        for _ in range(self.depth):
            likely = tree.path_logprobs[frontier].exp() >= self.threshold
            frontier = frontier[likely]
            if not len(frontier) or len(tree) >= self.nodes:
                break
            candidates = expand(tree, frontier, self.branch)
            first = len(tree)
            tree = tree.grow(frontier, candidates)
            frontier = torch.arange(first, min(len(tree), self.nodes))
        return tree.first(self.nodes)
