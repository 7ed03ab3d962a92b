"""AttentionConfig: the constants of one layer's attention, and its weights in plain PyTorch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor


@frozen(eq=False)
class AttentionConfig:
    """A layer's scaling, and the soft cap, learned sinks [H] or sliding window that it may have."""

    scaling: float
    softcap: float | None = None
    s_aux: Tensor | None = None
    window: int | None = None

    @property
    def by_scores_alone(self) -> bool:
        """Whether weights are the softmax of scores, without a soft cap or sinks."""
        return self.softcap is None and self.s_aux is None

    @property
    def kind(self) -> Hashable:
        """What is the same in layers whose attention can be computed together."""
        return self.scaling, self.softcap, self.window, self.s_aux is None

    @staticmethod
    def joined(layers: Sequence[AttentionConfig]) -> AttentionConfig:
        """The attention of the heads of several layers of one kind."""
        sinks = [config.s_aux for config in layers if config.s_aux is not None]
        return evolve(layers[0], s_aux=torch.cat(sinks)) if sinks else layers[0]

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
