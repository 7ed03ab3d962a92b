"""The smallest shaper that branches, as a plugin."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from attrs.validators import ge

from toolkit import Expand, Strategy, TokenTree, TreeShaper, hookimpl, option


@attrs.define
class Coin(TreeShaper):
    """Drafts two tokens per level and continues below the likelier one."""

    name = "coin"
    depth: int = option(4, help="levels below the root", validator=ge(1))

    @property
    def nodes(self) -> int:
        return 1 + 2 * self.depth

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, tip = root, [0]
        for _ in range(self.depth):
            first = len(tree)
            tree = tree.grow(tip, expand(tree, tip, 2))
            if len(tree) == first:
                break
            tip = [first]
        return tree


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """The strategies of this plugin."""
    return [Coin]
