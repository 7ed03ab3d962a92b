"""A described decoder as one call into C: no Python between layers, one team of threads for all.

Norms, rotations and linears keep every row's bits whatever goes with it, so a tree has AR's bits.
Activations are float32 between the weights, which are fp32 or bf16.
"""

from __future__ import annotations

from ctypes import addressof, c_void_p
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from toolkit.runtime.attention import Pass
from toolkit.runtime.cache import TreeLayer
from toolkit.runtime.executors.blocks.parts import Block, Decoder, Norm
from toolkit.runtime.executors.linears import Blocked, Ruled
from toolkit.runtime.kernels import native, structs

KINDS = {"rms": 1, "layer": 2}
SHARE = 1 << 15  # weights of a layer that are worth a thread of their own


@define(eq=False)
class Compiled:
    """Runs a decoder's passes in C."""

    decoder: Decoder
    kernels: native.Library
    dtype: torch.dtype
    _struct: structs.Decoder = field(init=False)
    _held: list[Any] = field(init=False, factory=list)  # what the structs point at
    _names: list[str] = field(init=False)  # of the rotations, in the order of their tables
    _tables: dict[int, tuple[Any, Any]] = field(init=False, factory=dict)  # by positions
    _share: int = field(init=False)  # threads that a layer keeps busy

    def __attrs_post_init__(self) -> None:
        blocks = [block for block in self.decoder.blocks if isinstance(block, Block)]
        self._names = sorted(self.decoder.rotations)
        made = structs.array(structs.Block, [self._block(block) for block in blocks])
        self._held.append(made)
        norm, head = self.decoder.norm, self.decoder.head
        assert isinstance(norm, Norm), "found by `against`"
        self._struct = structs.Decoder(
            len(blocks), blocks[0].before_mlp.width, structs.DTYPES[self.dtype], made,
            self._norm(norm), self._linears(head)[0], self.decoder.cap or 0.0,
        )  # fmt: skip
        parts = [
            part
            for linear in (blocks[0].attention.qkv, blocks[0].mlp.up)
            for part in linear.parts
            if isinstance(part, Blocked)
        ]
        self._share = 1 + sum(part.inputs * part.outputs for part in parts) // SHARE

    def forward(self, tokens: Tensor, now: Pass, keep: int = 0) -> Tensor:
        """As `Executor.forward`."""
        count, positions = len(tokens), now.query_pos.contiguous()
        keep = keep or count
        x = self.decoder.embed(tokens, positions).float().contiguous()
        logits = torch.empty(keep, self._struct.head.outputs, dtype=self.dtype)
        places, seen, queries = self._places(now, count)
        cos, sin = self._turns(now.deepest)
        call = structs.Pass(
            count, keep, x.data_ptr(), positions.data_ptr(), cos, sin, places, seen, len(seen),
            logits.data_ptr(), min(torch.get_num_threads(), self._share),
        )  # fmt: skip
        self.kernels.decoder(self._struct, call)
        for layer, kept in queries:
            layer.drafted.append(kept.transpose(0, 1))
        return logits

    def _places(self, now: Pass, count: int) -> tuple[Any, Any, list[tuple[TreeLayer, Tensor]]]:
        """Where each layer's rows go and what they see; queries [N, H, D] that are to be kept."""
        places, tables, queries = [], {}, []
        for block in self.decoder.blocks:
            how = block.attention.how
            layer: TreeLayer = now.cache.layers[block.attention.layer]
            layer.attend = how
            first = layer.claim(count, self._empty(block))
            seen = now.seen(layer, how.window)
            index = tables.setdefault(id(seen), (len(tables), seen))[0]
            kept = None
            if now.keeps(layer):
                kept = torch.empty(count, block.attention.heads, block.attention.width)
                kept = kept.to(self.dtype)
                queries.append((layer, kept))
            places.append((
                layer.keys.data_ptr(), layer.values.data_ptr(), structs.address(kept),
                layer.keys.shape[2], first, index,
            ))  # fmt: skip
        seens = [seen.struct for _, seen in tables.values()]
        return (structs.Place * len(places))(*places), structs.array(structs.Seen, seens), queries

    def _empty(self, block: Any) -> Tensor:
        """No rows [1, H_kv, 0, D] of a layer's cache."""
        return torch.empty(1, block.attention.kv_heads, 0, block.attention.width, dtype=self.dtype)

    def _turns(self, deepest: int) -> tuple[Any, Any]:
        """Pointers to the tables of cos and sin, float32, with room for position `deepest`."""
        tables = [self.decoder.rotations[name].upto(deepest) for name in self._names]
        size = len(tables[0][0]) if tables else 0
        if size not in self._tables:
            wide = [[table.float().contiguous() for table in pair] for pair in zip(*tables)]
            pointers = [(c_void_p * len(part))(*(t.data_ptr() for t in part)) for part in wide]
            self._held += wide
            self._tables = {size: tuple(pointers) if pointers else (None, None)}
        return self._tables[size]

    def _block(self, block: Block) -> structs.Block:
        attention, mlp = block.attention, block.mlp
        norms = attention.norms or (None, None)
        rotation = attention.rotation
        width = 0
        if rotation is not None:
            width = self.decoder.rotations[rotation].upto(0)[0].shape[1]
        return structs.Block(
            self._norm(block.before_attention), *map(self._norm, norms),
            self._norm(block.after_attention), self._norm(block.before_mlp),
            self._norm(block.after_mlp), self._some(attention.qkv, 3),
            self._linears(attention.out)[0], self._some(mlp.up, 2), self._linears(mlp.down)[0],
            attention.heads, attention.kv_heads, attention.width, attention.interleaved,
            self._names.index(rotation) if rotation is not None else 0, width,
            block.parallel, native.ACTS[mlp.act], mlp.gated,
            attention.how.scaling, attention.how.softcap or 0.0,
        )  # fmt: skip

    def _norm(self, norm: Norm | None) -> structs.Norm:
        if norm is None:
            return structs.Norm()
        weight, bias = (
            None if part is None else part.float().contiguous() for part in (norm.weight, norm.bias)
        )
        self._held += [weight, bias]
        return structs.Norm(
            structs.address(weight), structs.address(bias), norm.eps, KINDS[norm.kind], norm.width
        )

    def _linears(self, linear: Ruled) -> list[structs.Linear]:
        return [part.struct for part in linear.parts if isinstance(part, Blocked)]

    def _some(self, linear: Ruled, count: int) -> Any:
        """Up to `count` linears; those that are not there have no outputs."""
        return (structs.Linear * count)(*self._linears(linear))


def compiled(decoder: Decoder, dtype: torch.dtype) -> Compiled | None:
    """The decoder in C, where our kernels multiply and know all of it."""
    kernels = native.library()
    head = decoder.head.parts[0]
    if kernels is None or not isinstance(head, Blocked) or not isinstance(decoder.norm, Norm):
        return None
    for block in decoder.blocks:
        if not isinstance(block, Block) or block.mlp.act not in native.ACTS:
            return None
        if block.attention.width > native.WIDEST or block.attention.how.s_aux is not None:
            return None
    return Compiled(decoder, kernels, dtype)
