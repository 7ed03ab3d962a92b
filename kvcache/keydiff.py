"""KeyDiff (Park et al. 2025): keys that differ from the others stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class KeyDiff(ScorePolicy):
    """KeyDiff: evicts the keys most similar to the mean direction of all keys."""

    name = "keydiff"
    headwise = True
    logs = False
    budget: int = option(128, help="positions kept per KV head", validator=ge(1))
    recent: int = option(32, help="last positions, always kept", validator=ge(0))
    sinks: int = option(0, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))

    def score(self, view: KVView) -> Tensor:
        import torch.nn.functional as F

        direction = F.normalize(view.keys.float(), dim=-1).mean(1, keepdim=True)
        return -F.cosine_similarity(view.keys.float(), direction, dim=-1)
