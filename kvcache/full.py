"""The full cache: every position stays visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import MaskPolicy

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Full(MaskPolicy):
    """Full cache: nothing is evicted."""

    name = "full"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (query_pos >= 0) & (key_pos >= 0)
