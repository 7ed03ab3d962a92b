"""What decoder blocks are made of: norms, linears, activations, rotations, attention over a pass.

Letters: M rows of a pass (its N tokens, and padding where linears want it), E width of the residual
stream, H query heads, H_kv KV heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from attrs import define, field, frozen
from torch import Tensor, nn
from transformers.activations import ACT2FN

from toolkit.runtime.attention import Pass, attended
from toolkit.runtime.executors.linears import Linear, Linears
from toolkit.runtime.kernels import native
from toolkit.view import Attend

Map = Callable[[Tensor], Tensor]
TABLE = 1024  # positions whose rotations are computed at a time: always the same ones together


@define(eq=False)
class Rows:
    """The rows of one pass: its tokens come first, padding after them."""

    now: Pass
    count: int  # N
    positions: Tensor  # [M]
    rotations: dict[str, tuple[Tensor, Tensor]] = field(factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: Attend) -> Tensor:
        """Attention of query [M, H, D] on the cache and key, value [M, H_kv, D] → [M, H·D]."""
        q, k, v = (part[: self.count].transpose(0, 1)[None] for part in (query, key, value))
        keys, values = self.now.cache.update(k, v, layer)
        out = attended(self.now, layer, q, keys, values, how)[0].flatten(1)
        padding = query.shape[0] - self.count
        return F.pad(out, (0, 0, 0, padding)) if padding else out


class Block(Protocol):
    """One decoder layer."""

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        """The residual stream [M, E] after this layer."""


@frozen(eq=False)
class RMSNorm:
    """Root-mean-square norm (Zhang & Sennrich 2019) over the last dimension."""

    weight: Tensor
    eps: float
    module: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype is torch.float64:  # where the module rounds to float32 in between
            return self.module(x)
        out = F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.eps)
        return out.to(x.dtype)


def rms_norm(module: Any) -> RMSNorm:
    """Llama's: times the weight."""
    return RMSNorm(module.weight.detach(), module.variance_epsilon, module)


def rms_norm_from_one(module: Any) -> RMSNorm:
    """Gemma's: times one plus the weight, in float32."""
    return RMSNorm(1.0 + module.weight.detach().float(), module.eps, module)


def layer_norm(module: nn.LayerNorm) -> Map:
    """A layer norm, with or without weights."""
    shape, eps = module.normalized_shape, module.eps
    weight = None if module.weight is None else module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    return lambda x: F.layer_norm(x, shape, weight, bias, eps)


@frozen(eq=False)
class Activation:
    """An activation of rows [M, I], times others of the same shape where there are any."""

    name: str  # as in a config

    def __call__(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        kernels = native.gates(self.name, x)
        if kernels is not None:
            return kernels.gated(self.name, x, times)
        out: Tensor = ACT2FN[self.name](x)
        return out if times is None else out * times


@frozen(eq=False)
class GatedMLP:
    """The map down(act(gate(x)) · up(x)) (Shazeer 2020); gate and up are one linear."""

    gate_up: Linear
    act: Activation
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(self.act(gate, up))


def gated_mlp(mlp: Any, act: str, linears: Linears) -> GatedMLP:
    """The MLP that Llama and its heirs share."""
    return GatedMLP(
        linears.fused(mlp.gate_proj, mlp.up_proj), Activation(act), linears.fused(mlp.down_proj)
    )


@frozen(eq=False)
class MLP:
    """The map down(act(up(x)))."""

    up: Linear
    act: Activation
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


def rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first r dimensions of x [M, h, D]: dimension i is paired with i + r/2."""
    cos, sin = rotation  # [M, 1, r], the first half of sin negated
    width = cos.shape[-1]
    part = x[..., :width]
    left, right = part.chunk(2, -1)
    turned = part * cos + torch.cat([right, left], -1) * sin
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)


@define(eq=False)
class Rotations:
    """Tables of cos and sin by position, from the module's own rotary embedding."""

    embed: Callable[[Tensor], tuple[Tensor, Tensor]]  # position ids [1, T] → two [1, T, r]
    cos: Tensor = field(init=False)
    sin: Tensor = field(init=False)
    _size: int = field(init=False, default=0)

    def at(self, positions: Tensor, deepest: int) -> tuple[Tensor, Tensor]:
        """The cos and signed sin [M, 1, r] at `positions[M]`, none beyond `deepest`."""
        while deepest >= self._size:
            self._grow(positions.device)
        return self.cos[positions][:, None], self.sin[positions][:, None]

    def _grow(self, device: torch.device) -> None:
        ids = torch.arange(self._size, self._size + TABLE, device=device)[None]
        cos, sin = (table[0] for table in self.embed(ids))
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[:, :half], sin[:, half:]], -1)
        first = not self._size
        self.cos = cos if first else torch.cat([self.cos, cos])
        self.sin = sin if first else torch.cat([self.sin, sin])
        self._size += TABLE


def rotations_of(module: Any, rotary: Any, kinds: Sequence[str] = ()) -> dict[str, Rotations]:
    """A table for each kind of layer; one, under "", where all rotate alike."""
    like = torch.empty(0, dtype=module.dtype, device=module.device)
    if not kinds:
        return {"": Rotations(lambda ids: rotary(like, ids))}
    return {kind: Rotations(partial(rotary, like, layer_type=kind)) for kind in set(kinds)}


@frozen(eq=False)
class Description:
    """A decoder as functions: tokens → embed → blocks → norm → head → logits."""

    embed: Callable[[Tensor, Tensor], Tensor]  # tokens [M], positions [M] → [M, E]
    blocks: tuple[Block, ...]
    norm: Map
    head: Map
    rotations: dict[str, Rotations] = field(factory=dict)
