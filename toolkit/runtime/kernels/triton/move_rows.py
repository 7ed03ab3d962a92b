"""Move the rows of an accepted path to the end of the committed rows, in all layers in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.runtime.kernels.triton.jit import (
    begin,
    device_of,
    jit,
    overlap,
    power_of_two,
    runs,
    tl,
)

WIDTH = 32  # dimensions of a head that a program moves


def move_rows(cache: Tensor, sources: Tensor, length: Tensor) -> None:
    """In `cache[B, H, R, D]`, copy row `sources[i]` to row C + i, as if all were read before one is
    written. B counts layers, keys and values. int32 on the device: `sources[A]`, and C in `length[1]`.

    A shorter path is padded with rows that stay: `sources[i]` = C + i. Rows from R on are left alone.
    """
    if not runs(cache):
        move_rows_plain(cache, sources, length)
        return
    many, heads, capacity, width = cache.shape
    with device_of(cache):
        move_rows_kernel[(many, heads, -(-width // WIDTH))](
            cache, sources, length, *cache.stride()[:3], capacity, width=width,
            count=len(sources), padded=power_of_two(len(sources)), part=WIDTH, num_warps=4,
            **overlap(cache.device),
        )  # fmt: skip


def move_rows_plain(cache: Tensor, sources: Tensor, length: Tensor) -> None:
    """The same in plain PyTorch."""
    last = cache.shape[2] - 1
    to = (length + torch.arange(len(sources), device=cache.device)).clamp(max=last).long()
    held = sources.long().clamp(max=last)
    cache.index_copy_(2, to, cache.index_select(2, held))


@jit
def move_rows_kernel(
    cache_ptr, sources_ptr, length_ptr, buffer_stride, head_stride, row_stride,
    capacity, width: tl.constexpr, count: tl.constexpr, padded: tl.constexpr,
    part: tl.constexpr, overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (buffer, head, some dimensions): all rows of a path, since they overlap."""
    begin(overlaps)
    buffer = tl.program_id(0).to(tl.int64) * buffer_stride + tl.program_id(1) * head_stride
    row = tl.arange(0, padded)
    d = tl.program_id(2) * part + tl.arange(0, part)
    to = tl.load(length_ptr) + row
    held = (row < count) & (to < capacity)
    source = tl.load(sources_ptr + row, mask=held, other=0)
    inside = held[:, None] & (d < width)[None, :]
    x = tl.load(cache_ptr + buffer + source[:, None] * row_stride + d, mask=inside, other=0.0)
    tl.debug_barrier()  # all are read before one is written
    tl.store(cache_ptr + buffer + to[:, None] * row_stride + d, x, mask=inside)
