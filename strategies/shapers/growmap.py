"""Static tree: the number of children of each node is fixed in advance (Sequoia, Medusa)."""

from __future__ import annotations

import attrs

from toolkit import Expand, GrowMap, TokenTree, TreeShaper, option


@attrs.define
class Growmap(TreeShaper):
    """Static tree: the number of children of each node is fixed in advance (Sequoia, Medusa).

    It does not read the candidates, so drawn ones keep their law.
    """

    name = "growmap"
    prunes = False
    tree: str = option(
        "4x2x1x1",
        help="children per level, 8-chain, 4x8-tree, 2^3, or a .pt or .json file",
    )

    _map: GrowMap = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._map = GrowMap.parse(self.tree)

    @property
    def nodes(self) -> int:
        return len(self._map)

    @property
    def shape(self) -> GrowMap:
        return self._map

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        children, tree = self._map.children, root
        level = {0: 0}  # node → its place in the map, of those that have children
        while level:
            frontier = list(level)
            counts = [len(children[place]) for place in level.values()]
            first, drafted = len(tree), expand(tree, frontier, max(counts))
            tree = tree.grow(frontier, drafted.first(counts))
            below = {}
            seen = dict.fromkeys(frontier, 0)
            for node in range(first, len(tree)):
                parent = tree.parents[node]
                place = children[level[parent]][seen[parent]]
                seen[parent] += 1
                if children[place]:
                    below[node] = place
            level = below
        return tree
