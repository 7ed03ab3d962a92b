"""Sliding-window attention (Longformer, Beltagy et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import MaskPolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Window(MaskPolicy):
    """Sliding window: a query sees itself and the `budget` − 1 positions before it."""

    name = "window"
    epoch = 16
    budget: int = option(128, help="visible positions, the query's own included", validator=ge(1))

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return query_pos - key_pos < self.budget
