"""Rows of several layers in one tensor, and their compaction: a few operations for all layers."""

from __future__ import annotations

from torch import Tensor, cat

from toolkit.runtime.kernels import native, structs
from toolkit.runtime.kv.cache import TreeLayer, gather_rows

CELLS = 1 << 20  # numbers of keys that are copied at a time


def portions(layers: list[TreeLayer], rows: int) -> list[list[TreeLayer]]:
    """Layers of one shape in order, as many at a time as `CELLS` allows for so many rows."""
    _, heads, _, width = layers[0].keys.shape
    most = max(1, CELLS // max(1, heads * rows * width))
    return [layers[first : first + most] for first in range(0, len(layers), most)]


def heads_of(layers: list[TreeLayer], of: Tensor) -> slice:
    """Which heads of the tensor `of[heads of the group, …]` are those of `layers`, which follow each
    other in their group."""
    per = len(of) // len(layers[0].group.layers)
    return slice(layers[0].place * per, (layers[-1].place + 1) * per)


def keys_of(layers: list[TreeLayer], count: int) -> Tensor:
    """The first `count` keys [h, count, D] of all heads of layers of one shape."""
    if (run := _run(layers)) is not None:
        return run[0, :, :count]
    return _joined([layer.keys for layer in layers], count)


def values_of(layers: list[TreeLayer], count: int) -> Tensor:
    """As `keys_of`, for values."""
    if (run := _run(layers)) is not None:
        return run[1, :, :count]
    return _joined([layer.values for layer in layers], count)


def _joined(buffers: list[Tensor], count: int) -> Tensor:
    parts = [buffer[0, :, :count] for buffer in buffers]
    return parts[0] if len(parts) == 1 else cat(parts)


def compact(layers: list[TreeLayer], index: Tensor) -> None:
    """Keep the rows `index[h, C']` of a group's layers, in order; h is 1 where all hold the same."""
    by_head, count = layers[0].by_head, index.shape[1]
    if layers[0].device.type == "cpu" and (kernels := native.library()) is not None:
        buffers = structs.buffers((layer.keys, layer.values) for layer in layers)
        kernels.keep(buffers, index, by_head)
    elif (run := _run(layers)) is not None:
        run[:, :, :count] = gather_rows(run, index)
    else:
        for layer in layers:
            for buffer in (layer.keys, layer.values):
                buffer[:, :, :count] = gather_rows(buffer, index[layer.heads])


def _run(layers: list[TreeLayer]) -> Tensor | None:
    """Keys and values [2, h, rows, D] of the heads of layers that follow each other in a slab."""
    slab, first, last = layers[0].owner.slab, layers[0].index, layers[-1].index
    if slab is None or last - first != len(layers) - 1:
        return None
    return slab.buffer[:, first : last + 1].flatten(1, 2)
