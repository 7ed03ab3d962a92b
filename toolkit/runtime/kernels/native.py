"""Calling the compiled kernels; without them PyTorch does the same work, in other last bits."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_double, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from toolkit.runtime.kernels.build import NoCompiler, built, isas
from toolkit.view import Attend

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
ACTS = {"silu": 0, "swish": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu_fast": 1, "gelu": 2}
WIDEST = 256  # of a head
GRAIN = 1 << 14  # elements worth a thread of their own


@frozen(eq=False)
class Seen:
    """What each node attends to: rows 0 … prefix−1, then its own, in position order."""

    prefix: int
    tails: Tensor  # int32 [T, N, longest]; T is 1, or H_kv where heads differ
    lengths: Tensor  # int32 [T, N]


def listed(mask: Tensor, prefix: int) -> Seen:
    """What `mask[T, N, K]` bool shows of the rows from `prefix` on, after all those before."""
    lengths = mask.sum(2, dtype=torch.int32)
    longest = int(lengths.max())
    order = mask.to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :longest]
    return Seen(prefix, (order + prefix).to(torch.int32).contiguous(), lengths)


class _Heads(Structure):
    _fields_ = [("data", c_void_p), ("head", c_int64), ("row", c_int64)]


class _Attention(Structure):
    _fields_ = [
        *((name, _Heads) for name in ("query", "key", "value")),
        ("out", c_void_p),
        *((name, c_int64) for name in "dtype nodes heads kv_heads width value_width".split()),
        *((name, c_int64) for name in ("tables", "prefix")),
        *((name, c_void_p) for name in ("tails", "lengths")),
        ("longest", c_int64),
        ("sinks", c_void_p),
        *((name, c_double) for name in ("scale", "softcap")),
        ("threads", c_int64),
    ]


@frozen(eq=False)
class Library:
    """The compiled kernels for one instruction set."""

    isa: str
    _attention: Any
    _gated: Any

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, seen: Seen, how: Attend
    ) -> Tensor:
        """Attention of query [1, H, N, D] on rows of key, value [1, H_kv, C, D] → [1, N, H, D_v]."""
        _, heads, nodes, width = query.shape
        out = query.new_empty(1, nodes, heads, value.shape[3])
        sinks = None if how.s_aux is None else how.s_aux.detach().float().contiguous()
        call = _Attention(
            _heads(query), _heads(key), _heads(value), out.data_ptr(), DTYPES[query.dtype], nodes,
            heads, key.shape[1], width, value.shape[3], seen.lengths.shape[0], seen.prefix,
            seen.tails.data_ptr(), seen.lengths.data_ptr(), seen.tails.shape[2],
            None if sinks is None else sinks.data_ptr(), how.scaling, how.softcap or 0.0,
            torch.get_num_threads(),
        )  # fmt: skip
        if self._attention(ctypes.byref(call)):
            raise MemoryError(f"no memory for the attention of {nodes} nodes")
        return out

    def gated(self, act: str, gate: Tensor, up: Tensor | None) -> Tensor:
        """act(gate) · up of [M, I], whose rows may lie apart; without `up` the activation alone."""
        count, width = gate.shape
        out = gate.new_empty(count, width)
        threads = min(torch.get_num_threads(), max(1, count * width // GRAIN), count)
        self._gated(
            gate.data_ptr(), None if up is None else up.data_ptr(), out.data_ptr(), count, width,
            gate.stride(0), threads, ACTS[act], DTYPES[gate.dtype],
        )  # fmt: skip
        return out


def _heads(states: Tensor) -> _Heads:
    return _Heads(states.data_ptr(), states.stride(1), states.stride(2))


@cache
def _library(isa: str) -> Library | str:
    """The kernels of an instruction set, or why there are none."""
    try:
        library = ctypes.CDLL(str(built(isa)))
    except (NoCompiler, OSError) as error:
        return str(error)
    attention, gated = library.tree_attention, library.gated
    attention.argtypes, attention.restype = [POINTER(_Attention)], c_int
    gated.argtypes, gated.restype = [c_void_p] * 3 + [c_int64] * 6, None
    return Library(isa, attention, gated)


_choice: list[str | None] = []  # what `using` asks for


@contextmanager
def using(isa: str | None) -> Iterator[None]:
    """Use the kernels of one instruction set, or none at all: for comparisons."""
    _choice.append(isa)
    try:
        yield
    finally:
        _choice.pop()


def library() -> Library | None:
    """The kernels in use, or None."""
    isa = _choice[-1] if _choice else isas()[-1]
    found = _library(isa) if isa else None
    return found if isinstance(found, Library) else None


def why_not() -> str | None:
    """Why there are no compiled kernels; None where there are."""
    found = _library(isas()[-1])
    return found if isinstance(found, str) else None


def attends(query: Tensor, key: Tensor, value: Tensor) -> Library | None:
    """The kernels, if they know how to attend to these tensors."""
    known = (
        query.device.type == "cpu"
        and query.dtype in DTYPES
        and query.dtype == key.dtype == value.dtype
        and max(query.shape[3], value.shape[3]) <= WIDEST
        and query.stride(3) == key.stride(3) == value.stride(3) == 1
    )
    return library() if known else None


def gates(act: str, gate: Tensor) -> Library | None:
    """The kernels, if they know this activation of these rows."""
    known = (
        act in ACTS
        and gate.ndim == 2
        and gate.device.type == "cpu"
        and gate.dtype in DTYPES
        and gate.stride(1) == 1
    )
    return library() if known else None
