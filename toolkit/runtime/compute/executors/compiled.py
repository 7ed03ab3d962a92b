"""A described decoder as one call into C: no Python between layers, one team of threads for all.

Norms, rotations and linears keep every row's bits whatever goes with it, so a tree has AR's bits.
Activations are float32 between the weights, which are fp32 or bf16.
"""

from __future__ import annotations

from ctypes import c_void_p
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from attrs import define, field, frozen
from torch import Tensor

from toolkit.runtime.compute.attention import Pass
from toolkit.runtime.compute.executors.linears import Blocked, Ruled
from toolkit.runtime.compute.layers.layer import Block, Decoder, Norm, PostNormBlock
from toolkit.runtime.kernels import native, structs
from toolkit.runtime.kv.cache import TreeCache, TreeLayer

KINDS = {"rms": 1, "layer": 2}
SHARE = 1 << 15  # weights of a layer that are worth a thread of their own


@define(eq=False)
class Placed:
    """Where the layers of one cache lie, kept from pass to pass."""

    places: Any  # an array of `structs.Place`
    each: list[structs.Place]
    keys: list[Tensor | None]  # those whose addresses are there

    @classmethod
    def of(cls, layers: int) -> Placed:
        """No addresses yet."""
        places = structs.array(structs.Place, [structs.Place()] * layers)
        return cls(places, list(places), [None] * layers)

    def point(self, index: int, layer: TreeLayer) -> None:
        """A layer has new buffers."""
        self.keys[index], place = layer.keys, self.each[index]
        place.keys, place.values = layer.keys.data_ptr(), layer.values.data_ptr()
        place.room = layer.keys.shape[2]


@frozen(eq=False)
class Turns:
    """Tables of cos and sin [size, r] in float32, one pair for each kind of rotation."""

    size: int
    tables: list[list[Tensor]]  # all cos, all sin
    cos: Any  # arrays of their addresses
    sin: Any

    @classmethod
    def of(cls, size: int, pairs: list[tuple[Tensor, Tensor]]) -> Turns:
        """Of pairs of tables in any dtype."""
        tables = [[pair[which].float().contiguous() for pair in pairs] for which in (0, 1)]
        arrays = [(c_void_p * len(part))(*map(structs.address, part)) for part in tables]
        return cls(size, tables, arrays[0], arrays[1])


@define(eq=False)
class Compiled:
    """Runs a decoder's passes in C."""

    decoder: Decoder
    blocks: list[Block]
    norm: Norm
    dtype: torch.dtype
    _names: list[str] = field(init=False)  # of the rotations, in the order of their tables
    _struct: structs.Decoder = field(init=False)
    _share: int = field(init=False)  # threads that a layer keeps busy
    _held: list[Any] = field(init=False, factory=list)  # what the structs point at
    _turned: Turns | None = field(init=False, default=None)
    _placed: WeakKeyDictionary[TreeCache, Placed] = field(init=False, factory=WeakKeyDictionary)

    def __attrs_post_init__(self) -> None:
        self._names = sorted(self.decoder.rotations)
        made = structs.array(structs.Block, [self._block(block) for block in self.blocks])
        self._held.append(made)
        (head,) = _linears(self.decoder.head)
        self._struct = structs.Decoder(
            len(self.blocks), self.norm.width, structs.DTYPES[self.dtype], made,
            self._norm(self.norm), head, self.decoder.cap or 0.0,
        )  # fmt: skip
        first = [*_linears(self.blocks[0].attention.qkv), *_linears(self.blocks[0].mlp.up)]
        self._share = 1 + sum(linear.inputs * linear.outputs for linear in first) // SHARE

    def forward(self, kernels: native.Library, tokens: Tensor, now: Pass, keep: int) -> Tensor:
        """As `Executor.forward`."""
        count, positions = len(tokens), now.query_pos.contiguous()
        keep = keep or count
        x = self.decoder.embed(tokens, positions).float().contiguous()
        logits = torch.empty(keep, self._struct.head.outputs, dtype=self.dtype)
        places, seen, queries = self._places(now, count)
        turns = self._turns(now.deepest)
        call = structs.Pass(
            count, keep, x.data_ptr(), positions.data_ptr(), turns.cos, turns.sin, places, seen,
            len(seen), logits.data_ptr(), min(torch.get_num_threads(), self._share),
        )  # fmt: skip
        kernels.decoder(self._struct, call)
        for layer, kept in queries:
            layer.queries.add(kept.transpose(0, 1))
        return logits

    def _places(self, now: Pass, count: int) -> tuple[Any, Any, list[tuple[TreeLayer, Tensor]]]:
        """Where each layer's rows go and what they see; queries [N, H, D] that are to be kept."""
        placed = self._placed.get(now.cache)
        if placed is None:
            placed = self._placed[now.cache] = Placed.of(len(self.blocks))
        seen: dict[native.Seen, int] = {}
        queries: list[tuple[TreeLayer, Tensor]] = []
        for index, place in enumerate(placed.each):
            attention = self.blocks[index].attention
            layer: TreeLayer = now.cache.layers[attention.layer]
            place.first = layer.claim(count, attention.kv_heads, attention.width, self.dtype)
            place.seen = seen.setdefault(now.visible(layer, attention.config.window), len(seen))
            if layer.keys is not placed.keys[index]:
                placed.point(index, layer)
                layer.attention = attention.config
            place.queries = None
            if now.eviction.logs(layer):
                kept = torch.empty(count, attention.heads, attention.width, dtype=self.dtype)
                place.queries = kept.data_ptr()
                queries.append((layer, kept))
        return placed.places, structs.array(structs.Seen, [s.struct for s in seen]), queries

    def _turns(self, deepest: int) -> Turns:
        """The rotations, with room for position `deepest`."""
        pairs = [self.decoder.rotations[name].upto(deepest) for name in self._names]
        size = len(pairs[0][0]) if pairs else 0
        turns = self._turned
        if turns is None or turns.size != size:
            turns = self._turned = Turns.of(size, pairs)
        return turns

    def _block(self, block: Block) -> structs.Block:
        attention, mlp = block.attention, block.mlp
        norms = attention.norms or (None, None)
        return structs.Block(
            self._norm(block.before_attention), *map(self._norm, norms),
            self._norm(block.after_attention), self._norm(block.before_mlp),
            self._norm(block.after_mlp), _upto(3, attention.qkv), *_linears(attention.out),
            _upto(2, mlp.up), *_linears(mlp.down), attention.heads, attention.kv_heads,
            attention.width, attention.interleaved, *self._rotation(attention.rotation),
            block.parallel, native.ACTS[mlp.act], mlp.gated, attention.config.scaling,
            attention.config.softcap or 0.0,
        )  # fmt: skip

    def _rotation(self, name: str | None) -> tuple[int, int]:
        """Which table rotates, and how many dimensions."""
        if name is None:
            return 0, 0
        return self._names.index(name), self.decoder.rotations[name].upto(0)[0].shape[1]

    def _norm(self, norm: Norm | None) -> structs.Norm:
        if norm is None:
            return structs.Norm()
        parts = (norm.weight, norm.bias)
        wide = [None if part is None else part.to(torch.float32, copy=True) for part in parts]
        self._held.append(wide)
        return structs.Norm(*map(structs.address, wide), norm.eps, KINDS[norm.kind], norm.width)


def _linears(linear: Ruled) -> list[structs.Linear]:
    return [part.struct for part in linear.parts if isinstance(part, Blocked)]


def _upto(count: int, linear: Ruled) -> Any:
    """`count` linears; those that are not there have no outputs."""
    return (structs.Linear * count)(*_linears(linear))


def compiled(decoder: Decoder, dtype: torch.dtype) -> Compiled | None:
    """The decoder in C, where our kernels multiply and know all of it."""
    blocks = [block for block in decoder.blocks if _known(block)]
    whole = len(blocks) == len(decoder.blocks) and isinstance(decoder.head.inner, Blocked)
    if not whole or not isinstance(decoder.norm, Norm):
        return None
    return Compiled(decoder, blocks, decoder.norm, dtype)


def _known(block: Block | PostNormBlock) -> TypeGuard[Block]:
    attention = block.attention
    return (
        isinstance(block, Block)
        and block.mlp.act in native.ACTS
        and attention.width <= native.WIDEST
        and attention.config.s_aux is None
    )
