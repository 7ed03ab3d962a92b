"""A described decoder as one call into C: no Python between layers, and one team of threads for all.

Norms, rotations and linears give every row the same bits whatever other rows are computed with it, so a
tree has AR's bits. Activations between linears are float32; weights are fp32 or bf16.
"""

from __future__ import annotations

from ctypes import c_void_p
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from attrs import define, field, frozen
from torch import Tensor

from toolkit.runtime.compute.attention import Pass
from toolkit.runtime.compute.layers.decoder import (
    Decoder,
    Layer,
    Norm,
    PostNormLayer,
    TokenEmbedding,
)
from toolkit.runtime.compute.linears.batch_invariance import RuledLinear
from toolkit.runtime.compute.linears.kernels import Blocked
from toolkit.runtime.kernels import native, structs
from toolkit.runtime.kv.cache import TreeCache, TreeLayer

NORM_KINDS = {"rms": 1, "layer": 2}
SHARE = 1 << 15  # weights of a layer that are worth a thread of their own


@define(eq=False)
class CacheAddresses:
    """The addresses of one cache's buffers, kept from pass to pass."""

    array: Any  # of `structs.LayerCache`
    each: list[structs.LayerCache]
    keys: list[Tensor | None]  # the buffers whose addresses `array` holds

    @classmethod
    def empty(cls, layers: int) -> CacheAddresses:
        """No addresses yet."""
        array = structs.array(structs.LayerCache, [structs.LayerCache()] * layers)
        return cls(array, list(array), [None] * layers)

    def update(self, index: int, layer: TreeLayer) -> None:
        """Take the addresses of a layer's new buffers."""
        self.keys[index], held = layer.keys, self.each[index]
        held.keys, held.values = layer.keys.data_ptr(), layer.values.data_ptr()
        held.room = layer.keys.shape[2]


@frozen(eq=False)
class CosSinAddresses:
    """Tables of cos and sin [size, r] in float32, one pair for each kind of layer."""

    size: int
    tables: list[list[Tensor]]  # all cos, all sin; kept alive for the addresses
    cos: Any  # arrays of addresses
    sin: Any

    @classmethod
    def of(cls, size: int, pairs: list[tuple[Tensor, Tensor]]) -> CosSinAddresses:
        """Copy pairs of tables of any dtype to float32."""
        tables = [[pair[which].float().contiguous() for pair in pairs] for which in (0, 1)]
        arrays = [(c_void_p * len(part))(*map(structs.address, part)) for part in tables]
        return cls(size, tables, arrays[0], arrays[1])


@define(eq=False)
class CDecoder:
    """Runs a decoder's passes in C."""

    decoder: Decoder
    layers: list[Layer]
    norm: Norm
    dtype: torch.dtype
    _kinds: list[str] = field(init=False)  # of the cos/sin tables, in the order of their addresses
    _struct: structs.Decoder = field(init=False)
    _embedding: Tensor | None = field(init=False)  # [V, E], in which C looks tokens up
    _share: int = field(init=False)  # threads that a layer keeps busy
    _held: list[Any] = field(init=False, factory=list)  # what the structs point at
    _cos_sin: CosSinAddresses | None = field(init=False, default=None)
    _addresses: WeakKeyDictionary[TreeCache, CacheAddresses] = field(
        init=False, factory=WeakKeyDictionary
    )

    @classmethod
    def of(cls, decoder: Decoder, dtype: torch.dtype) -> CDecoder | None:
        """The decoder in C; None unless our kernels compute its linears and support its layers."""
        layers = [layer for layer in decoder.layers if _supported(layer)]
        complete = len(layers) == len(decoder.layers) and isinstance(decoder.head.kernel, Blocked)
        if not complete or not isinstance(decoder.norm, Norm):
            return None
        return cls(decoder, layers, decoder.norm, dtype)

    def __attrs_post_init__(self) -> None:
        self._kinds = sorted(self.decoder.rotary)
        made = structs.array(structs.Layer, [self._layer(layer) for layer in self.layers])
        self._held.append(made)
        (head,) = _linears(self.decoder.head)
        self._embedding = _embedding(self.decoder, self.dtype)
        self._struct = structs.Decoder(
            len(self.layers), self.norm.width, structs.DTYPES[self.dtype], None, made,
            self._norm(self.norm), head, self.decoder.softcap or 0.0,
        )  # fmt: skip
        first = [*_linears(self.layers[0].attention.qkv), *_linears(self.layers[0].mlp.up)]
        self._share = 1 + sum(linear.inputs * linear.outputs for linear in first) // SHARE

    def forward(self, kernels: native.Library, now: Pass, keep: int) -> Tensor:
        """As `Executor.forward`."""
        tokens, positions = now.host.tokens, now.host.query_pos
        count = len(tokens)
        keep = keep or count
        x = None if self._looks_up(tokens) else self._embed(now)
        logits = torch.empty(keep, self._struct.head.outputs, dtype=self.dtype)
        caches, visible, queries = self._caches(now, count)
        cos_sin = self._tables(now.deepest)
        call = structs.PassCall(
            count, keep, structs.integers(tokens), structs.address(x), structs.integers(positions),
            cos_sin.cos, cos_sin.sin, caches, visible, len(visible), logits.data_ptr(),
            min(torch.get_num_threads(), self._share),
        )  # fmt: skip
        kernels.decoder(self._struct, call)
        for layer, kept in queries:
            layer.log(kept.transpose(0, 1))
        return logits

    def _looks_up(self, tokens: list[int]) -> bool:
        """Whether C embeds tokens; if so, it knows where the embedding is now, which may have moved."""
        table = self._embedding
        if table is None or min(tokens) < 0 or max(tokens) >= len(table):
            return False
        self._struct.embedding = table.data_ptr()
        return True

    def _embed(self, now: Pass) -> Tensor:
        """The embedding [N, E] of a pass's rows, by the decoder's own function."""
        embedded = self.decoder.embed(now.rows.tokens, now.rows.query_pos)
        return embedded.to(torch.float32, copy=True).contiguous()  # C overwrites it

    def _caches(self, now: Pass, count: int) -> tuple[Any, Any, list[tuple[TreeLayer, Tensor]]]:
        """Where each layer's rows go, what they attend to, and the queries [N, H, D] to keep."""
        addresses = self._addresses.get(now.cache)
        if addresses is None:
            addresses = self._addresses[now.cache] = CacheAddresses.empty(len(self.layers))
        visible: dict[native.Visible, int] = {}
        queries: list[tuple[TreeLayer, Tensor]] = []
        for index, held in enumerate(addresses.each):
            attention = self.layers[index].attention
            layer: TreeLayer = now.cache.layers[attention.layer]
            held.first = layer.claim(count, attention.kv_heads, attention.width, self.dtype)
            held.visible = visible.setdefault(
                now.visible(layer, attention.config.window), len(visible)
            )
            if layer.keys is not addresses.keys[index]:
                addresses.update(index, layer)
                layer.attention = attention.config
            held.queries = None
            if now.eviction.logs(layer):
                kept = torch.empty(count, attention.heads, attention.width, dtype=self.dtype)
                held.queries = kept.data_ptr()
                queries.append((layer, kept))
        return addresses.array, structs.array(structs.Visible, [s.struct for s in visible]), queries

    def _tables(self, deepest: int) -> CosSinAddresses:
        """The cos/sin tables, with room for position `deepest`."""
        pairs = [self.decoder.rotary[kind].upto(deepest) for kind in self._kinds]
        size = len(pairs[0][0]) if pairs else 0
        if self._cos_sin is None or self._cos_sin.size != size:
            self._cos_sin = CosSinAddresses.of(size, pairs)
        return self._cos_sin

    def _layer(self, layer: Layer) -> structs.Layer:
        attention, mlp = layer.attention, layer.mlp
        norms = attention.norms or (None, None)
        return structs.Layer(
            self._norm(layer.before_attention), *map(self._norm, norms),
            self._norm(layer.after_attention), self._norm(layer.before_mlp),
            self._norm(layer.after_mlp), _padded(3, attention.qkv), *_linears(attention.out),
            _padded(2, mlp.up), *_linears(mlp.down), attention.heads, attention.kv_heads,
            attention.width, attention.interleaved, *self._rotary(attention.rotary),
            layer.parallel, native.ACTS[mlp.act], mlp.gated, attention.config.scaling,
            attention.config.softcap or 0.0,
        )  # fmt: skip

    def _rotary(self, kind: str | None) -> tuple[int, int]:
        """Which cos/sin tables rotate, and how many dimensions r."""
        if kind is None:
            return 0, 0
        return self._kinds.index(kind), self.decoder.rotary[kind].upto(0)[0].shape[1]

    def _norm(self, norm: Norm | None) -> structs.Norm:
        if norm is None:
            return structs.Norm()
        parts = (norm.weight, norm.bias)
        wide = [None if part is None else part.to(torch.float32, copy=True) for part in parts]
        self._held.append(wide)
        return structs.Norm(
            *map(structs.address, wide), norm.eps, NORM_KINDS[norm.kind], norm.width
        )


def _embedding(decoder: Decoder, dtype: torch.dtype) -> Tensor | None:
    """The embedding [V, E] that C can look tokens up in; None where the decoder does more than that."""
    if not isinstance(decoder.embed, TokenEmbedding):
        return None
    weight = decoder.embed.weight
    return weight if weight.dtype == dtype and weight.is_contiguous() else None


def _linears(linear: RuledLinear) -> list[structs.Linear]:
    return [part.struct for part in linear.parts if isinstance(part, Blocked)]


def _padded(count: int, linear: RuledLinear) -> Any:
    """An array of `count` linears; those that do not exist have no outputs."""
    return (structs.Linear * count)(*_linears(linear))


def _supported(layer: Layer | PostNormLayer) -> TypeGuard[Layer]:
    attention = layer.attention
    return (
        isinstance(layer, Layer)
        and layer.mlp.act in native.ACTS
        and attention.width <= native.WIDEST
        and attention.config.s_aux is None
    )
