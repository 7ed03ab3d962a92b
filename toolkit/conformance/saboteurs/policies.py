"""Sabotaged KV policies."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from toolkit.interfaces import MaskPolicy, option


@attrs.define
class CountsFromTheNewest(MaskPolicy):
    """A window that ends at the newest key there is: a deep draft moves it for everyone."""

    name = "counts-from-the-newest"
    size: int = 4

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (key_pos > key_pos.max() - self.size) & (query_pos >= 0)


@attrs.define
class SeesAgain(MaskPolicy):
    """Even positions see even ones, odd ones odd ones: what was hidden, and freed, is seen again."""

    name = "sees-again"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (query_pos - key_pos) % 2 == 0


@attrs.define
class TwiceItsBudget(MaskPolicy):
    """As many positions at the beginning as at the end, each as many as the whole budget."""

    name = "twice-its-budget"
    budget: int = option(4, help="visible positions")

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (key_pos < self.budget) | (query_pos - key_pos < self.budget)


@attrs.define
class Fades(MaskPolicy):
    """Hides more, the more often it was asked."""

    name = "fades"
    asked: int = 0

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        self.asked += 1
        return query_pos - key_pos < max(2, 8 - self.asked)


@attrs.define
class Weighs(MaskPolicy):
    """Answers by weights where yes or no was asked."""

    name = "weighs"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return torch.where(query_pos - key_pos < 4, 1.0, 0.0)


@attrs.define
class HidesNothing(MaskPolicy):
    """A window with its comparison the wrong way round: everything before a query stays visible."""

    name = "hides-nothing"
    size: int = 4

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return key_pos - query_pos < self.size
