"""TOVA (Oren et al. 2024): the positions that the last query attends to least are evicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Tova(ScorePolicy):
    """TOVA: keeps the positions with the most attention from the last query, mean over heads.

    All heads of a layer keep the same positions. The paper evicts one position per token; here the
    positions of a whole epoch are evicted at each decision.
    """

    name = "tova"
    headwise = True
    budget: int = option(128, help="positions kept per layer", validator=ge(1))
    recent: int = option(1, help="last positions, always kept", validator=ge(0))
    sinks: int = option(0, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))

    def score(self, view: KVView) -> Tensor:
        return view.mean_over_heads(view.rows(1)[:, :, 0])
