"""SnapKV (Li et al. 2024): the prompt positions that its last queries attend to stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


def require_odd(_: object, field: attrs.Attribute[int], value: int) -> None:
    """A validator: raises `ValueError` for even numbers and for those below 1."""
    if value < 1 or value % 2 == 0:
        raise ValueError(f"{field.name!r} must be odd, got {value}")


@attrs.define
class SnapKV(ScorePolicy):
    """SnapKV: keeps the prompt positions with the most attention from the last prompt queries.

    The attention of the last `recent` prompt queries is summed and averaged over neighbours. Decides
    once, at the end of the prompt, and keeps all later tokens. Selects per KV head; the paper selects
    per query head.
    """

    name = "snapkv"
    once = True
    budget: int = option(64, help="prompt positions kept per KV head", validator=ge(1))
    recent: int = option(
        16,
        help="last prompt positions: their queries score the others, and they are kept",
        validator=ge(1),
    )
    kernel: int = option(5, help="width of the average over neighbours, odd", validator=require_odd)

    def score(self, view: KVView) -> Tensor:
        return observe_attention(view, self.recent, self.kernel)


def observe_attention(view: KVView, recent: int, kernel: int) -> Tensor:
    """Attention [H_kv, C] of the last `recent` queries on older rows, averaged over neighbours; 0 on
    the rows of these queries."""
    mass = view.rows(recent).sum(2).mean(1)
    older = mass.shape[1] - recent
    if older < 1:
        return mass
    import torch.nn.functional as F

    smooth = F.avg_pool1d(mass[:, :older], 2 * (kernel // 2) + 1, 1, kernel // 2)
    return F.pad(smooth, (0, recent))
