"""Limits: what a request may use at most, whatever its shaper asks for."""

from __future__ import annotations

from math import isnan
from typing import Any

from attrs import asdict, field, frozen

from toolkit.errors import SpecError
from toolkit.tree import TokenTree


def _require_positive(_: object, attribute: Any, value: float | None) -> None:
    if value is not None and (isnan(value) or value <= 0):
        raise SpecError(
            f"{attribute.name}={value}: expected a number above 0, or None for no limit"
        )


@frozen
class Limits:
    """The most nodes of a depth and of a tree that are verified, and the most seconds of a request.

    None: no limit. The tokens stay those of AR. A request whose seconds are over ends after the step
    in progress. Raises `SpecError` for numbers that are not above 0.
    """

    max_nodes_per_level: int | None = field(default=None, validator=_require_positive)
    max_nodes: int | None = field(default=None, validator=_require_positive)  # root included
    max_seconds: float | None = field(default=None, validator=_require_positive)

    def cut(self, tree: TokenTree) -> TokenTree:
        """Cut a tree to the limits; the nodes that the drafter finds likeliest stay.

        In a tree with draws the first nodes stay, because a verifier of draws needs a shape that does
        not depend on what was drawn.
        """
        worth = tree.path_logprobs if not tree.laws else [0.0] * len(tree)
        kept = list(range(len(tree)))
        if self.max_nodes_per_level is not None:
            kept = _narrow(tree, worth, self.max_nodes_per_level)
        if self.max_nodes is not None:
            kept = sorted(kept, key=worth.__getitem__, reverse=True)[: self.max_nodes]
        return tree if len(kept) == len(tree) else tree.subtree(sorted(kept))

    def depth(self, depth: int) -> int:
        """How deep a tree need be drafted: a path has no more nodes than its tree."""
        return depth if self.max_nodes is None else min(depth, self.max_nodes - 1)

    @property
    def cut_trees(self) -> bool:
        """Whether they may cut a tree."""
        return self.max_nodes_per_level is not None or self.max_nodes is not None

    def ends(self, seconds: float) -> bool:
        """Whether a request that began so many seconds ago has used up its time."""
        return self.max_seconds is not None and seconds >= self.max_seconds

    def __str__(self) -> str:
        """The limits in force, as `max_nodes=8,max_seconds=2.5`; empty without any."""
        return ",".join(f"{name}={value:g}" for name, value in asdict(self).items() if value)


def _narrow(tree: TokenTree, worth: list[float], width: int) -> list[int]:
    """The `width` worthiest nodes of each depth, of those whose parents stay; ascending ids."""
    kept = [0]
    for depth in range(1, tree.depth + 1):
        stays = set(kept)
        level = [n for n, d in enumerate(tree.depths) if d == depth and tree.parents[n] in stays]
        kept += sorted(level, key=worth.__getitem__, reverse=True)[:width]
    return sorted(kept)
