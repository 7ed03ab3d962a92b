"""Calls the compiled kernels. Without them PyTorch computes the same, with other last bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Array, byref, c_double, c_int, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from toolkit.runtime.kernels import structs
from toolkit.runtime.kernels.build import NoCompiler, isas, load
from toolkit.runtime.kernels.structs import address

ACTS = {
    "silu": 0, "swish": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu_fast": 1, "gelu": 2, "relu": 3
}  # fmt: skip
WIDEST = 256  # of a head
GRAIN = 1 << 14  # elements worth a thread of their own


@frozen(eq=False)
class Visible:
    """The rows that each node attends to: 0 … prefix − 1, then those in its mask, in order."""

    prefix: int
    mask: Tensor | bytes  # bool [T, N, K], contiguous, of the rows from `prefix` on; T is 1, or H_kv
    shape: tuple[int, int, int]  # T, N, K

    @classmethod
    def of(cls, prefix: int, mask: Tensor) -> Visible:
        """The rows before `prefix`, and those in `mask[T, N, K]`."""
        tables, nodes, rows = mask.shape
        return cls(prefix, mask.contiguous(), (tables, nodes, rows))

    @property
    def struct(self) -> structs.Visible:
        mask = self.mask
        at = structs.address_of_bytes(mask) if isinstance(mask, bytes) else mask.data_ptr()
        return structs.Visible(at, *self.shape, self.prefix)


@frozen(eq=False)
class Library:
    """The compiled kernels for one instruction set."""

    isa: str
    _attention: Any
    _gated: Any
    _linear: Any
    _decoder: Any
    _move: Any
    _keep: Any
    _noise: Any
    _draw: Any
    _top: Any

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        visible: Visible,
        scaling: float,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
    ) -> Tensor:
        """Attention of query [1, H, N, D] on rows of key, value [1, H_kv, C, D] → [1, N, H, D_v].

        Scores are scaled and perhaps capped; `s_aux[H]` are learned sinks.
        """
        _, heads, nodes, width = query.shape
        out = query.new_empty(1, nodes, heads, value.shape[3])
        sinks = None if s_aux is None else s_aux.detach().float().contiguous()
        call = structs.Attention(
            *map(structs.Heads.of, (query, key, value)), out.data_ptr(), heads * value.shape[3],
            *(structs.DTYPES[part.dtype] for part in (query, key, out)), nodes, heads,
            key.shape[1], width, value.shape[3], structs.Lists(), address(sinks), scaling,
            softcap or 0.0,
        )  # fmt: skip
        threads = torch.get_num_threads()
        _require_memory(self._attention(byref(call), byref(visible.struct), threads), nodes)
        return out

    def gated(self, act: str, gate: Tensor, up: Tensor | None) -> Tensor:
        """act(gate) · up, all [M, I]; without `up`, act(gate). Rows may be strided."""
        count, width = gate.shape
        out = gate.new_empty(count, width)
        threads = min(torch.get_num_threads(), max(1, count * width // GRAIN), count)
        self._gated(
            gate.data_ptr(), address(up), out.data_ptr(), count, width, gate.stride(0), threads,
            ACTS[act], structs.DTYPES[gate.dtype],
        )  # fmt: skip
        return out

    def linear(self, of: structs.Linear, x: Tensor) -> Tensor:
        """X [M, in] → [M, out]. Raises `MemoryError`."""
        out = x.new_empty(len(x), of.outputs)
        threads = min(torch.get_num_threads(), 1 + of.inputs * of.outputs // GRAIN)
        x = x.contiguous()
        _require_memory(
            self._linear(byref(of), x.data_ptr(), len(x), out.data_ptr(), threads), len(x)
        )
        return out

    def decoder(self, decoder: structs.Decoder, call: structs.PassCall) -> None:
        """Run a whole pass: writes logits, and rows of the cache. Raises `MemoryError`."""
        _require_memory(self._decoder(byref(decoder), byref(call)), call.nodes)

    def move(self, buffers: Array[structs.Buffer], first: list[int], path: list[int]) -> None:
        """Make scratch rows `path[A]`, ascending, the first ones of each layer's keys and values.

        Layer l's scratch rows start at `first[l]`.
        """
        starts, rows = (c_int64 * len(first))(*first), (c_int64 * len(path))(*path)
        self._move(buffers, len(first), starts, rows, len(path))

    def keep(self, buffers: Array[structs.Buffer], index: Tensor, by_head: bool) -> None:
        """Make rows `index[h, C']` the first ones of some layers' keys and values. With `by_head`, h
        counts the heads of all these layers, else it is 1. Raises `MemoryError`."""
        count = index.shape[1]
        rows = index.contiguous()
        _require_memory(
            self._keep(buffers, len(buffers) // 2, rows.data_ptr(), count, by_head), count
        )

    def noise(self, keys: list[int], count: int) -> Tensor:
        """Gumbel noise [keys, `count`], float32; see `toolkit.randomness`."""
        out = torch.empty(len(keys), count)
        self._noise((c_uint64 * len(keys))(*keys), len(keys), count, out.data_ptr())
        return out

    def draw(self, logits: Tensor, noise: Tensor, scale: float) -> int:
        """The first token with the greatest `logits[V]` + scale · `noise[V]`, in double precision."""
        return int(
            self._draw(
                logits.data_ptr(), structs.DTYPES[logits.dtype], noise.data_ptr(), scale, len(logits)
            )
        )

    def top(self, logits: Tensor, k: int, noise: Tensor | None, scale: float) -> memoryview:
        """The `k` likeliest tokens after each row of `logits[M, V]` + scale · noise, as bytes that
        `toolkit.likeliest.Kernel` describes; noise is `[≥ V]` for all rows, or `[M, ≥ V]`.

        Right after a pass a call of PyTorch takes as long as this: it makes no tensor.
        """
        rows, vocabulary = logits.shape
        out = (c_int32 * (rows * (2 * k + 1)))()
        apart = 0 if noise is None or noise.ndim == 1 else noise.stride(0)
        threads = min(torch.get_num_threads(), max(1, rows * vocabulary // GRAIN), rows)
        self._top(
            logits.data_ptr(), structs.DTYPES[logits.dtype], rows, logits.stride(0), vocabulary, k,
            address(noise), apart, scale, out, threads,
        )  # fmt: skip
        return memoryview(out).cast("B")


def _require_memory(failed: int, rows: int) -> None:
    if failed:
        raise MemoryError(f"no memory for a pass of {rows} rows")


@cache
def _library(isa: str) -> Library | str:
    """The kernels of an instruction set, or why there are none."""
    try:
        library = load(isa)
    except NoCompiler as error:
        return str(error)
    takes = {
        "tree_attention": [POINTER(structs.Attention), POINTER(structs.Visible), c_int64],
        "gated": [c_void_p] * 3 + [c_int64] * 6,
        "linear": [POINTER(structs.Linear), c_void_p, c_int64, c_void_p, c_int64],
        "decoder_pass": [POINTER(structs.Decoder), POINTER(structs.PassCall)],
        "move_rows": [POINTER(structs.Buffer), c_int64, *[POINTER(c_int64)] * 2, c_int64],
        "keep_rows": [POINTER(structs.Buffer), c_int64, c_void_p, c_int64, c_int64],
        "gumbel_noise": [POINTER(c_uint64), c_int64, c_int64, c_void_p],
        "draw_token": [c_void_p, c_int64, c_void_p, c_double, c_int64],
        "top_tokens": [
            c_void_p, *[c_int64] * 5, c_void_p, c_int64, c_double, POINTER(c_int32), c_int64
        ],
    }  # fmt: skip
    # What is returned: 1 when there is no memory, or a token.
    fail = dict.fromkeys(("tree_attention", "linear", "decoder_pass", "keep_rows"), c_int)
    returns = {**fail, "draw_token": c_int64}
    functions = {name: getattr(library, name) for name in takes}
    for name, function in functions.items():
        function.argtypes, function.restype = takes[name], returns.get(name)
    return Library(isa, *functions.values())


_choice: list[str | None] = []  # the arguments of the calls of `using` in progress


@contextmanager
def using(isa: str | None) -> Iterator[None]:
    """Use the kernels of one instruction set, or none for None; for comparisons."""
    _choice.append(isa)
    try:
        yield
    finally:
        _choice.pop()


def library() -> Library | None:
    """The kernels in use, or None."""
    isa = _choice[-1] if _choice else "best"
    found = _best() if isa == "best" else isa and _library(isa)
    return found if isinstance(found, Library) else None


@cache
def _best() -> Library | str:
    """The fastest kernels that work here, or why the fastest do not."""
    first, *others = reversed(isas())
    best = _library(first)
    for isa in others:
        if isinstance(best, Library):
            break
        found = _library(isa)
        best = found if isinstance(found, Library) else best
    return best


def best_library() -> Library:
    """The kernels, switched off or not. Raises `NoCompiler` where there are none."""
    found = library() or _best()
    if isinstance(found, str):
        raise NoCompiler(found)
    return found


def why_not() -> str | None:
    """Why there are no compiled kernels; None where there are."""
    found = _best()
    return found if isinstance(found, str) else None


def for_attention(query: Tensor, key: Tensor, value: Tensor) -> Library | None:
    """The kernels, if they can compute attention of these tensors."""
    known = (
        query.device.type == "cpu"
        and query.dtype in structs.DTYPES
        and query.dtype == key.dtype == value.dtype
        and max(query.shape[3], value.shape[3]) <= WIDEST
        and query.stride(3) == key.stride(3) == value.stride(3) == 1
    )
    return library() if known else None


def for_activation(act: str, gate: Tensor) -> Library | None:
    """The kernels, if they can compute this activation of these rows."""
    known = (
        act in ACTS
        and gate.ndim == 2
        and gate.device.type == "cpu"
        and gate.dtype in structs.DTYPES
        and gate.stride(1) == 1
    )
    return library() if known else None


def for_logits(logits: Tensor, noise: Tensor | None = None) -> Library | None:
    """The kernels, if they can compute with these logits [M, V] or [V] and this noise for them."""
    known = (
        logits.device.type == "cpu"
        and logits.dtype in structs.DTYPES
        and logits.stride(-1) == 1
        and (noise is None or _covers(noise, logits))
    )
    return library() if known else None


def _covers(noise: Tensor, logits: Tensor) -> bool:
    """Whether noise is float32 [≥ V], or [M, ≥ V], in rows that a kernel can read."""
    return (
        noise.device.type == "cpu"
        and noise.dtype == torch.float32
        and noise.stride(-1) == 1
        and noise.shape[-1] >= logits.shape[-1]
        and noise.shape[:-1] in ((), logits.shape[:-1])
    )
