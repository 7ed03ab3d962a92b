"""A KV policy as a plugin: the first positions, the latest, and every n-th between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import MaskPolicy, Strategy, hookimpl, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Comb(MaskPolicy):
    """Keeps the first positions, the latest, and every n-th between them: the strided pattern of sparse
    transformers (Child et al. 2019) with attention sinks (Xiao et al. 2023)."""

    name = "comb"
    first: int = option(4, help="positions at the beginning that stay visible", validator=ge(0))
    every: int = option(8, help="one position in so many stays visible", validator=ge(1))
    last: int = option(
        64, help="latest visible positions, the query's own included", validator=ge(1)
    )

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        near = query_pos - key_pos < self.last
        return near | (key_pos < self.first) | (key_pos % self.every == 0)


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """The strategies of this plugin."""
    return [Comb]
