"""What decoders are made of: norms, attention over a pass, MLPs, and the layer that joins them.

Letters: M rows of a pass (its N tokens, and padding where linears need it), E width of the residual
stream, H query heads, H_kv KV heads, D head size, r rotated dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from attrs import define, field, frozen
from torch import Tensor, nn

from toolkit.runtime.compute.attention import Pass, attend
from toolkit.runtime.compute.linears.batch_invariance import RuledLinear
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kernels import native
from toolkit.runtime.kernels.graphs import Thunk
from toolkit.runtime.kernels.triton import jit
from toolkit.runtime.kernels.triton import norms as kernels
from toolkit.runtime.kernels.triton.activations import activate
from toolkit.runtime.kernels.triton.rotary import rotate
from toolkit.runtime.kv.attention_config import AttentionConfig

Map = Callable[[Tensor], Tensor]
TABLE = 1024  # positions whose cos and sin are computed at a time, always the same ones together


class LayerRows(Protocol):
    """The M rows of one pass, as layers see them."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        config: AttentionConfig,
        rotary: str | None,
    ) -> Tensor:
        """Attention of query [M, H, D] on the cache and key, value [M, H_kv, D] → [M, H·D]. The tables
        of kind `rotary` rotate query and key."""

    def both(self, first: Thunk, second: Thunk) -> tuple[Tensor, Tensor]:
        """What two functions compute that do not depend on each other: they may run side by side."""


@frozen(eq=False)
class PassRows:
    """The M rows of one pass: the N tokens first, then padding."""

    now: Pass
    count: int  # N
    cos_sin: dict[str, tuple[Tensor, Tensor]]  # [M, 1, r] each, by kind of layer

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        config: AttentionConfig,
        rotary: str | None,
    ) -> Tensor:
        """As `LayerRows.attend`."""
        if rotary is not None:
            cos, sin = self.cos_sin[rotary]
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        q, k, v = (part[: self.count].transpose(0, 1)[None] for part in (query, key, value))
        keys, values = self.now.cache.update(k, v, layer)
        out = attend(self.now, layer, q, keys, values, config)[0].flatten(1)
        padding = query.shape[0] - self.count
        return F.pad(out, (0, 0, 0, padding)) if padding else out

    def both(self, first: Thunk, second: Thunk) -> tuple[Tensor, Tensor]:
        """As `LayerRows.both`, one after the other."""
        return first(), second()


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


@frozen(eq=False)
class TokenEmbedding:
    """A function of tokens [M] and positions [M] → embedding [M, E]; it does not read positions."""

    weight: Tensor  # [V, E]

    @classmethod
    def of(cls, module: nn.Embedding) -> TokenEmbedding:
        return cls(module.weight.detach())

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)


def rms_norm(module: Any) -> Norm:
    """Llama's RMS norm: the result is multiplied by the weight."""
    weight = module.weight.detach()
    return Norm("rms", weight, None, module.variance_epsilon, len(weight), module)


def rms_norm_from_one(module: Any) -> Norm:
    """Gemma's RMS norm: the result is multiplied by one plus the weight, in float32."""
    weight = 1.0 + module.weight.detach().float()
    return Norm("rms", weight, None, module.eps, len(weight), module)


def layer_norm(module: Any) -> Norm:
    """A layer norm, with or without weights."""
    weight = None if module.weight is None else module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    return Norm("layer", weight, bias, module.eps, module.normalized_shape[0], module)


@frozen(eq=False)
class Attention:
    """Grouped-query attention (Ainslie et al. 2023) over the cache, rotary or not."""

    layer: int
    qkv: RuledLinear  # queries, then keys, then values; or all three head by head
    out: RuledLinear
    heads: int
    kv_heads: int
    width: int  # D
    config: AttentionConfig
    interleaved: bool = False
    norms: tuple[Norm, Norm] | None = None  # of query and key heads
    rotary: str | None = None  # which cos/sin tables rotate queries and keys

    def __call__(self, x: Tensor, rows: LayerRows) -> Tensor:
        query, key, value = self._split(self.qkv(x))
        if self.norms is not None:
            query, key = self.norms[0](query), self.norms[1](key)
        return self.out(rows.attend(self.layer, query, key, value, self.config, self.rotary))

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Heads [M, H or H_kv, D] of queries, keys and values."""
        if self.interleaved:
            return qkv.view(len(qkv), self.heads, 3, self.width).unbind(2)
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        return qkv.view(len(qkv), -1, self.width).split(sizes, 1)


@frozen(eq=False)
class MLP:
    """down(act(up(x))), or gated (Shazeer 2020): down(act(gate(x)) · up(x))."""

    up: RuledLinear  # where it is gated: gate, then up
    act: str  # the activation's name in a config
    down: RuledLinear
    gated: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.gated:
            return self.down(self._activate(*self.up(x).chunk(2, -1)))
        return self.down(self.up(x, self.act) if self.up.activates else self._activate(self.up(x)))

    def _activate(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        kernels = native.for_activation(self.act, x)
        if kernels is not None:
            return kernels.gated(self.act, x, times)
        return activate(self.act, x, times)


def gated_mlp(mlp: Any, act: str, linears: Linears) -> MLP:
    """The gated MLP of Llama and of the models built like it."""
    up = linears.fuse(mlp.gate_proj, mlp.up_proj)
    return MLP(up, act, linears.fuse(mlp.down_proj), gated=True)


Branches = tuple[Tensor, ...]
"""What layers add to the residual stream [M, E] next: none, one, or attention's and the MLP's."""


@frozen(eq=False)
class Layer:
    """One decoder layer: x + attention(norm(x)), then x + mlp(norm(x)).

    With `parallel`, attention and MLP read the same x. Their outputs may have norms, too.
    """

    attention: Attention
    mlp: MLP
    before_attention: Norm
    before_mlp: Norm
    after_attention: Norm | None = None
    after_mlp: Norm | None = None
    parallel: bool = False

    def __call__(self, x: Tensor, branches: Branches, rows: LayerRows) -> tuple[Tensor, Branches]:
        """The residual stream [M, E] and what this layer adds to it. `branches` are what the layer
        before adds."""
        if self.parallel:
            norms = self.before_attention, self.before_mlp
            x, for_attention, for_mlp = add_and_norm(x, branches, *norms)
            return x, rows.both(
                partial(self._attend, for_attention, rows), partial(self._feed, for_mlp)
            )
        x, normed = add_and_norm(x, branches, self.before_attention)
        x, normed = add_and_norm(x, (self._attend(normed, rows),), self.before_mlp)
        return x, (self._feed(normed),)

    def _attend(self, x: Tensor, rows: LayerRows) -> Tensor:
        out = self.attention(x, rows)
        return out if self.after_attention is None else self.after_attention(out)

    def _feed(self, x: Tensor) -> Tensor:
        out = self.mlp(x)
        return out if self.after_mlp is None else self.after_mlp(out)


@frozen(eq=False)
class PostNormLayer:
    """One decoder layer with norms after the sums: norm(x + attention(x)), then norm(x + mlp(x))."""

    attention: Attention
    mlp: MLP
    after_attention: Norm
    after_mlp: Norm

    def __call__(self, x: Tensor, branches: Branches, rows: LayerRows) -> tuple[Tensor, Branches]:
        """The residual stream [M, E] after this layer, to which nothing is left to add."""
        _, x = add_and_norm(x, (*branches, self.attention(x, rows)), self.after_attention)
        _, x = add_and_norm(x, (self.mlp(x),), self.after_mlp)
        return x, ()


def add_and_norm(x: Tensor, branches: Branches, *norms: Map) -> tuple[Tensor, ...]:
    """Add branches to the residual stream [M, E] in their order; returns the sum and its norms."""
    first = norms[0]
    if jit.runs(x) and isinstance(first, Norm):
        affines = tuple((norm.weight, norm.bias) for norm in norms if isinstance(norm, Norm))
        return kernels.add_and_norm(x, branches, affines, first.eps, first.kind == "rms")
    for branch in branches:
        x = x + branch
    return x, *(norm(x) for norm in norms)


@define(eq=False)
class RotaryTables:
    """Tables of cos and sin [T, r] by position, from the module's own rotary embedding.

    The first half of sin is negated. The tables grow when a position beyond them is asked for.
    """

    device: torch.device
    embed: Callable[[Tensor], tuple[Tensor, Tensor]]  # position ids [1, T] → two [1, T, r]
    tables: tuple[Tensor, Tensor] = field(init=False)
    _size: int = field(init=False, default=0)

    def at(self, positions: Tensor, deepest: int) -> tuple[Tensor, Tensor]:
        """Cos and sin [M, 1, r] at `positions[M]`, of which `deepest` is the greatest or more."""
        cos, sin = self.upto(deepest)
        return cos[positions][:, None], sin[positions][:, None]

    def upto(self, deepest: int) -> tuple[Tensor, Tensor]:
        """The tables of cos and sin [T, r], with T > `deepest`."""
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


def rotary_tables(module: Any, rotary: Any, kinds: Sequence[str] = ()) -> dict[str, RotaryTables]:
    """Tables by kind of layer; one pair under "" where all layers rotate alike."""
    like = torch.empty(0, dtype=module.dtype, device=module.device)
    if not kinds:
        return {"": RotaryTables(like.device, partial(rotary, like))}
    return {
        kind: RotaryTables(like.device, partial(rotary, like, layer_type=kind))
        for kind in set(kinds)
    }


@frozen(eq=False)
class Decoder:
    """A decoder as functions: tokens → embed → layers → norm → head → logits."""

    embed: Callable[[Tensor, Tensor], Tensor]  # tokens [M], positions [M] → [M, E]
    layers: tuple[Layer | PostNormLayer, ...]
    norm: Map
    head: RuledLinear
    softcap: float | None = None  # logits stay within ±softcap
    rotary: dict[str, RotaryTables] = field(factory=dict)

    def hidden(self, tokens: Tensor, positions: Tensor, rows: LayerRows) -> tuple[Tensor, Branches]:
        """The residual stream [M, E] of `tokens[M]` and what the last layer adds to it."""
        x = self.embed(tokens, positions)
        branches: Branches = ()
        for layer in self.layers:
            x, branches = layer(x, branches, rows)
        return x, branches

    def logits(self, x: Tensor, branches: Branches) -> Tensor:
        """Logits [M, V] of what `hidden` returns."""
        logits = self.head(add_and_norm(x, branches, self.norm)[1])
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap
