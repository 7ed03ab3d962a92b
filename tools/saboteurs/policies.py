"""Broken mask policies."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from toolkit.interfaces import MaskPolicy, option


@attrs.define
class CountsFromTheNewest(MaskPolicy):
    """A window that ends at the newest key: a deep draft moves it for every query."""

    name = "counts-from-the-newest"
    size: int = 4

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (key_pos > key_pos.max() - self.size) & (query_pos >= 0)


@attrs.define
class SeesAgain(MaskPolicy):
    """Even positions see even ones, odd see odd ones: rows that were freed are visible again."""

    name = "sees-again"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (query_pos - key_pos) % 2 == 0


@attrs.define
class TwiceItsBudget(MaskPolicy):
    """Shows the first `budget` positions and the last `budget` ones too."""

    name = "twice-its-budget"
    budget: int = option(4, help="visible positions")

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (key_pos < self.budget) | (query_pos - key_pos < self.budget)


@attrs.define
class Fades(MaskPolicy):
    """A window that shrinks with every call."""

    name = "fades"
    asked: int = 0

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        self.asked += 1
        return query_pos - key_pos < max(2, 8 - self.asked)


@attrs.define
class Weighs(MaskPolicy):
    """Returns weights instead of booleans."""

    name = "weighs"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return torch.where(query_pos - key_pos < 4, 1.0, 0.0)


@attrs.define
class HidesNothing(MaskPolicy):
    """A window with its comparison reversed: everything before a query stays visible."""

    name = "hides-nothing"
    size: int = 4

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return key_pos - query_pos < self.size


@attrs.define
class ByChance(MaskPolicy):
    """Draws with the global random generator what it shows."""

    name = "by-chance"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(query_pos.shape, key_pos.shape)
        return (torch.rand(shape) < 0.5) | (query_pos == key_pos)
