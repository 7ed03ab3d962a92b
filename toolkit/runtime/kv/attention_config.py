"""AttentionConfig: the constants of one layer's attention, and its weights in plain PyTorch."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor


@frozen(eq=False)
class AttentionConfig:
    """A layer's scaling, and the soft cap, learned sinks [H] or sliding window that it may have."""

    scaling: float
    softcap: float | None = None
    s_aux: Tensor | None = None
    window: int | None = None

    def weights(self, query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
        """Attention weights [H_kv, G, T, C] of queries [H_kv, G, T, D] on keys [H_kv, 1, C, D].

        `visible` is bool and broadcasts to the weights. Computed in float32 at least. The weights of
        a query that sees nothing are 0.
        """
        exact = torch.promote_types(query.dtype, torch.float32)
        scores = query.to(exact) @ key.transpose(-1, -2).to(exact) * self.scaling
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        masked = scores.masked_fill(~visible, -torch.inf)
        if self.s_aux is not None:
            sinks = self.s_aux.to(scores.dtype).reshape(*scores.shape[:2], 1, 1)
            masked = torch.cat([masked, sinks.expand(*scores.shape[:3], 1)], -1)
        return masked.softmax(-1)[..., : scores.shape[-1]].nan_to_num(0.0)
