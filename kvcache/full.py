"""Every position stays visible: the model as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import MaskPolicy

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Full(MaskPolicy):
    """No policy: plain attention over everything committed."""

    name = "full"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (query_pos >= 0) & (key_pos >= 0)
