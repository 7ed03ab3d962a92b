"""What decoders are made of: norms, attention over a pass, MLPs, and the block that joins them.

Letters: M rows of a pass (its N tokens, and padding where linears want it), E width of the residual
stream, H query heads, H_kv KV heads, D head size, r rotated dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import define, field, frozen
from torch import Tensor, nn
from transformers.activations import ACT2FN

from toolkit.runtime.compute.attention import Pass, attend
from toolkit.runtime.compute.executors.linears import Linears, Ruled
from toolkit.runtime.kernels import native
from toolkit.runtime.kv.attention_config import AttentionConfig

Map = Callable[[Tensor], Tensor]
TABLE = 1024  # positions whose rotations are computed at a time: always the same ones together


@define(eq=False)
class Rows:
    """The rows of one pass: its tokens come first, padding after them."""

    now: Pass
    count: int  # N
    positions: Tensor  # [M]
    rotations: dict[str, tuple[Tensor, Tensor]] = field(factory=dict)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, config: AttentionConfig
    ) -> Tensor:
        """Attention of query [M, H, D] on the cache and key, value [M, H_kv, D] → [M, H·D]."""
        q, k, v = (part[: self.count].transpose(0, 1)[None] for part in (query, key, value))
        keys, values = self.now.cache.update(k, v, layer)
        out = attend(self.now, layer, q, keys, values, config)[0].flatten(1)
        padding = query.shape[0] - self.count
        return F.pad(out, (0, 0, 0, padding)) if padding else out


@frozen(eq=False)
class Norm:
    """A norm over the last dimension: `rms` (Zhang & Sennrich 2019) or `layer` (Ba et al. 2016)."""

    kind: Literal["rms", "layer"]
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    width: int
    module: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)
        if x.dtype is torch.float64:  # where the module rounds to float32 in between
            return self.module(x)
        wide = x if self.weight is None else x.to(self.weight.dtype)
        return F.rms_norm(wide, (self.width,), self.weight, self.eps).to(x.dtype)


def lookup(module: nn.Embedding) -> Callable[[Tensor, Tensor], Tensor]:
    """The embedding [M, E] of tokens [M], whatever their positions."""
    weight = module.weight.detach()
    return lambda tokens, _: F.embedding(tokens, weight)


def rms_norm(module: Any) -> Norm:
    """Llama's: times the weight."""
    weight = module.weight.detach()
    return Norm("rms", weight, None, module.variance_epsilon, len(weight), module)


def rms_norm_from_one(module: Any) -> Norm:
    """Gemma's: times one plus the weight, in float32."""
    weight = 1.0 + module.weight.detach().float()
    return Norm("rms", weight, None, module.eps, len(weight), module)


def layer_norm(module: Any) -> Norm:
    """A layer norm, with or without weights."""
    weight = None if module.weight is None else module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    return Norm("layer", weight, bias, module.eps, module.normalized_shape[0], module)


@frozen(eq=False)
class Attention:
    """Attention of grouped queries (Ainslie et al. 2023) over the cache, rotary or not."""

    layer: int
    qkv: Ruled  # queries, then keys, then values; or all three head by head
    out: Ruled
    heads: int
    kv_heads: int
    width: int  # D
    config: AttentionConfig
    interleaved: bool = False
    norms: tuple[Norm, Norm] | None = None  # of query and key heads
    rotation: str | None = None  # which table rotates queries and keys

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        query, key, value = self._parts(self.qkv(x))
        if self.norms is not None:
            query, key = self.norms[0](query), self.norms[1](key)
        if self.rotation is not None:
            turn = rows.rotations[self.rotation]
            query, key = rotated(query, turn), rotated(key, turn)
        return self.out(rows.attend(self.layer, query, key, value, self.config))

    def _parts(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Heads [M, H or H_kv, D] of queries, keys and values."""
        if self.interleaved:
            return qkv.view(len(qkv), self.heads, 3, self.width).unbind(2)
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        return qkv.view(len(qkv), -1, self.width).split(sizes, 1)


@frozen(eq=False)
class MLP:
    """The map down(act(up(x))), or gated (Shazeer 2020) down(act(gate(x)) · up(x))."""

    up: Ruled  # gate and up where it is gated
    act: str  # as in a config
    down: Ruled
    gated: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        up = self.up(x)
        return self.down(self._activated(*up.chunk(2, -1)) if self.gated else self._activated(up))

    def _activated(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        kernels = native.gates(self.act, x)
        if kernels is not None:
            return kernels.gated(self.act, x, times)
        out: Tensor = ACT2FN[self.act](x)
        return out if times is None else out * times


def gated_mlp(mlp: Any, act: str, linears: Linears) -> MLP:
    """The MLP that Llama and its heirs share."""
    up = linears.fused(mlp.gate_proj, mlp.up_proj)
    return MLP(up, act, linears.fused(mlp.down_proj), gated=True)


@frozen(eq=False)
class Block:
    """One decoder layer: the sum x + attention(norm(x)), then + mlp(norm(x)).

    `parallel`: the MLP reads what attention reads. What they return may have a norm, too.
    """

    attention: Attention
    mlp: MLP
    before_attention: Norm
    before_mlp: Norm
    after_attention: Norm | None = None
    after_mlp: Norm | None = None
    parallel: bool = False

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        """The residual stream [M, E] after this layer."""
        branch = _normed(self.after_attention, self.attention(self.before_attention(x), rows))
        if self.parallel:
            return x + branch + _normed(self.after_mlp, self.mlp(self.before_mlp(x)))
        x = x + branch
        return x + _normed(self.after_mlp, self.mlp(self.before_mlp(x)))


@frozen(eq=False)
class PostNormBlock:
    """One decoder layer that norms its sums: norm(x + attention(x)), then norm(x + mlp(x))."""

    attention: Attention
    mlp: MLP
    after_attention: Norm
    after_mlp: Norm

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        """The residual stream [M, E] after this layer."""
        x = self.after_attention(x + self.attention(x, rows))
        return self.after_mlp(x + self.mlp(x))


def _normed(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


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
    """Tables [T, r] of cos and signed sin by position, from the module's own rotary embedding: the
    first half of sin is negated."""

    device: torch.device
    embed: Callable[[Tensor], tuple[Tensor, Tensor]]  # position ids [1, T] → two [1, T, r]
    tables: tuple[Tensor, Tensor] = field(init=False)
    _size: int = field(init=False, default=0)

    def at(self, positions: Tensor, deepest: int) -> tuple[Tensor, Tensor]:
        """The rotation [M, 1, r] at `positions[M]`, none beyond `deepest`."""
        cos, sin = self.upto(deepest)
        return cos[positions][:, None], sin[positions][:, None]

    def upto(self, deepest: int) -> tuple[Tensor, Tensor]:
        """The tables, with room for position `deepest`."""
        while deepest >= self._size:
            self._grow()
        return self.tables

    def _grow(self) -> None:
        ids = torch.arange(self._size, self._size + TABLE, device=self.device)[None]
        cos, sin = (table[0] for table in self.embed(ids))
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[:, :half], sin[:, half:]], -1)
        if self._size:
            cos, sin = torch.cat([self.tables[0], cos]), torch.cat([self.tables[1], sin])
        self.tables = cos, sin
        self._size += TABLE


def rotations_of(module: Any, rotary: Any, kinds: Sequence[str] = ()) -> dict[str, Rotations]:
    """A table for each kind of layer; one, under "", where all rotate alike."""
    like = torch.empty(0, dtype=module.dtype, device=module.device)
    if not kinds:
        return {"": Rotations(like.device, partial(rotary, like))}
    return {
        kind: Rotations(like.device, partial(rotary, like, layer_type=kind)) for kind in set(kinds)
    }


@frozen(eq=False)
class Decoder:
    """A decoder as functions: tokens → embed → blocks → norm → head → logits."""

    embed: Callable[[Tensor, Tensor], Tensor]  # tokens [M], positions [M] → [M, E]
    blocks: tuple[Block | PostNormBlock, ...]
    norm: Map
    head: Ruled
    cap: float | None = None  # logits stay within ±cap
    rotations: dict[str, Rotations] = field(factory=dict)

    def logits(self, x: Tensor) -> Tensor:
        """Of rows [M, E] that left the last block."""
        logits = self.head(self.norm(x))
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap
