"""Whatever the last query attends to least goes (TOVA, Oren et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Tova(ScorePolicy):
    """The boundary's query decides for all heads of a layer together, by its mean attention.

    The paper drops one position per token; here an epoch's worth goes at each boundary.
    """

    name = "tova"
    budget: int = option(128, help="positions kept per layer", validator=ge(1))
    recent: int = option(1, help="last positions, always kept", validator=ge(0))
    sinks: int = option(0, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))

    def score(self, view: KVView) -> Tensor:
        return view.rows(1).mean((0, 1))
