"""The structs of `kernels.h`, `decoder.c` and `move_rows.c`, field by field."""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import POINTER, Array, Structure, c_char_p, c_double, c_int64, c_void_p, cast
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
OUTPUTS = 32  # of a linear's block
INPUTS = 32  # bf16 weights are padded to a multiple of these


def ints(names: str) -> list[tuple[str, Any]]:
    """Fields of type int64_t."""
    return [(name, c_int64) for name in names.split()]


def pointers(names: str) -> list[tuple[str, Any]]:
    """Fields that point at data."""
    return [(name, c_void_p) for name in names.split()]


def integers(of: list[int]) -> Array[c_int64]:
    """A C array of numbers."""
    return (c_int64 * len(of))(*of)


def address(of: Tensor | None) -> int | None:
    """The address of a tensor's data; null for None."""
    return None if of is None else of.data_ptr()


def address_of_bytes(of: bytes) -> int | None:
    """The address of bytes, which must be kept."""
    return cast(c_char_p(of), c_void_p).value


class Linear(Structure):
    """A linear map, its weight laid out in blocks."""

    _fields_ = [*pointers("weight bias"), *ints("inputs outputs dtype")]


class Heads(Structure):
    """Addresses of heads and rows of states."""

    _fields_ = [*pointers("data"), *ints("head row")]

    @classmethod
    def of(cls, states: Tensor) -> Heads:
        """The heads of `states[1, heads, rows, width]`."""
        return cls(states.data_ptr(), states.stride(1), states.stride(2))


class Visible(Structure):
    """The rows that nodes attend to, as a mask."""

    _fields_ = [*pointers("mask"), *ints("tables nodes rows prefix")]


class Lists(Structure):
    """The rows that nodes attend to, as lists."""

    _fields_ = [*pointers("tails lengths"), *ints("tables nodes longest prefix")]


class Attention(Structure):
    """One layer's attention."""

    _fields_ = [
        *((name, Heads) for name in ("query", "key", "value")),
        *pointers("out"),
        *ints("out_row query_dtype dtype out_dtype nodes heads kv_heads width value_width"),
        ("lists", Lists),  # made by the kernel
        *pointers("sinks"),
        *((name, c_double) for name in ("scale", "softcap")),
    ]


class Norm(Structure):
    """A norm of rows; all fields zero for none."""

    _fields_ = [*pointers("weight bias"), ("eps", c_double), *ints("kind width")]


class Layer(Structure):
    """One decoder layer."""

    _fields_ = [
        *((name, Norm) for name in ("before_attention", "query_norm", "key_norm")),
        *((name, Norm) for name in ("after_attention", "before_mlp", "after_mlp")),
        ("qkv", Linear * 3),
        ("out", Linear),
        ("up", Linear * 2),
        ("down", Linear),
        *ints("heads kv_heads width interleaved table rotated parallel act gated"),
        *((name, c_double) for name in ("scale", "softcap")),
    ]


class Decoder(Structure):
    """All layers and the head."""

    _fields_ = [
        *ints("layers embedded dtype"),
        *pointers("embedding"),
        ("each", POINTER(Layer)),
        ("norm", Norm),
        ("head", Linear),
        ("softcap", c_double),
    ]


class LayerCache(Structure):
    """Where a layer's rows of this pass are written."""

    _fields_ = [*pointers("keys values queries"), *ints("room first visible")]


class Buffer(Structure):
    """The keys or values of one layer."""

    _fields_ = [*pointers("data"), *ints("heads room bytes")]

    @classmethod
    def of(cls, buffer: Tensor) -> Buffer:
        """The struct of `buffer[1, heads, rows, width]`."""
        _, heads, room, width = buffer.shape
        return cls(buffer.data_ptr(), heads, room, width * buffer.itemsize)


class PassCall(Structure):
    """One pass: its rows, and where everything that it reads and writes is."""

    _fields_ = [
        *ints("nodes keep"),
        ("tokens", POINTER(c_int64)),
        *pointers("x"),
        ("positions", POINTER(c_int64)),
        *((name, POINTER(c_void_p)) for name in ("cos", "sin")),
        ("caches", POINTER(LayerCache)),
        ("visible", POINTER(Visible)),
        *ints("tables"),
        *pointers("logits"),
        *ints("threads"),
    ]


def array(of: type[Structure], made: list[Any]) -> Array[Any]:
    """A C array of structs."""
    return (of * len(made))(*made)


def buffers(layers: Iterable[tuple[Tensor, Tensor]]) -> Array[Any]:
    """A C array of `Buffer` of each layer's keys and values."""
    return array(Buffer, [Buffer.of(buffer) for both in layers for buffer in both])
