"""L2-norm eviction (Devoto et al. 2024): keys with a small norm stay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, in_, le

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Knorm(ScorePolicy):
    """L2 norm: keeps the keys with the smallest norm, which rotation does not change.

    Keeps the share `ratio` of all positions if it is set, else `budget` of them; nothing is evicted
    before `prune_after` tokens. `high`, `random` and `latest` are the controls of the paper's tables.
    """

    name = "knorm"
    logs = False
    budget: int = option(128, help="positions kept per KV head", validator=ge(1))
    recent: int = option(0, help="last positions, always kept", validator=ge(0))
    sinks: int = option(0, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))
    keep: str = option(
        "low",
        help="low or high norms, random, or the latest",
        validator=in_(("low", "high", "random", "latest")),
    )
    ratio: float = option(
        0.0,
        help="share of all positions to keep; 0: keep `budget` of them",
        validator=[ge(0), le(1)],
    )
    prune_after: int = option(
        0, help="committed tokens before which everything is kept", validator=ge(0)
    )
    skip_layers: int = option(0, help="first layers in which everything is kept", validator=ge(0))
    seed: int = option(0, help="seed of `random`")

    @property
    def headwise(self) -> bool:
        return self.keep != "random"  # which draws by layer

    def score(self, view: KVView) -> Tensor:
        if self.keep == "latest":
            return view.positions.float()
        if self.keep == "random":
            return draw_uniform(view, self.seed)
        norm = view.keys.float().norm(dim=-1)
        return norm if self.keep == "high" else -norm

    def capacity(self, view: KVView) -> int:
        if view.layer < self.skip_layers or view.now <= self.prune_after:
            return view.now
        share = math.ceil(self.ratio * view.now)
        return max(share, self.sinks + self.recent) if self.ratio else self.budget


def draw_uniform(view: KVView, seed: int) -> Tensor:
    """Uniform numbers in [0, 1), float [H_kv, C], by seed, layer, head and position alone."""
    import torch

    heads = torch.arange(len(view.positions), device=view.positions.device)[:, None]
    state = view.positions + 1000003 * (heads + 1009 * (view.layer + 1009 * seed))
    for _ in range(3):  # a mixing function on 31 bits
        state = ((state ^ (state >> 15)) * 0x2C1B3C6D) % (1 << 31)
    return state / (1 << 31)
