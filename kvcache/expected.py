"""Expected Attention (Devoto et al. 2025): keys are scored by the attention of future queries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Expected(ScorePolicy):
    """Expected Attention: scores keys by expected attention under a Gaussian model of queries.

    The Gaussian has the mean and the covariance of the logged queries before rotation, rotated by the
    mean rotation over the next `future` positions. The score of a row is its expected attention
    weight times the norm of its value.
    """

    name = "expected"
    headwise = True
    rotates = True
    budget: int = option(128, help="positions kept per KV head", validator=ge(1))
    recent: int = option(32, help="last positions, always kept", validator=ge(0))
    sinks: int = option(4, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))
    future: int = option(512, help="future positions averaged over", validator=ge(1))

    def score(self, view: KVView) -> Tensor:
        keys = view.keys.to(view.carry.dtype)
        heads, _, width = keys.shape
        queries = view.rotate(view.queries.to(keys.dtype), -view.query_positions)
        mean = queries.mean(1)
        spread = queries - mean[:, None]
        covariance = spread.transpose(1, 2) @ spread / max(1, queries.shape[1])
        rotation = self._average_rotation(view, width)
        mean = (mean @ rotation).reshape(heads, -1, 1, width)  # [H_kv, G, 1, D]
        covariance = (rotation.T @ covariance @ rotation).reshape(heads, -1, width, width)
        keys = keys[:, None] * view.scaling
        logits = (keys * mean).sum(-1) + ((keys @ covariance) * keys).sum(-1) / 2
        logits = logits.masked_fill(view.positions[:, None] < 0, -math.inf)
        return logits.softmax(-1).mean(1) * view.values.to(keys.dtype).norm(dim=-1)

    def _average_rotation(self, view: KVView, width: int) -> Tensor:
        """The mean rotation [D, D] over the next `future` positions; multiply from the right."""
        import torch

        basis = torch.eye(width, dtype=view.carry.dtype, device=view.keys.device)
        total = torch.zeros_like(basis)
        for position in torch.arange(view.now, view.now + self.future, device=basis.device).split(
            64
        ):
            total += view.rotate(basis.expand(len(position), -1, -1), position[:, None]).sum(0)
        return total / self.future
