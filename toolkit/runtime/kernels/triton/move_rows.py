"""Move the rows of an accepted path to the end of the committed rows, in all layers in one launch."""

from __future__ import annotations

from array import array

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
from toolkit.transfer import send

WIDTH = 32  # dimensions of a head that a program moves
FEW = 16  # rows whose numbers go into a launch itself


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


def move_path(cache: Tensor, first: int, path: list[int]) -> None:
    """As `move_rows` of rows `first` + `path[A]`, ascending and below 65536, where C is `first`. The
    numbers go into the launch, so that nothing is copied to the device."""
    if not runs(cache):
        move_path_plain(cache, first, path)
        return
    many, heads, capacity, width = cache.shape
    with device_of(cache):
        for at in range(0, len(path), FEW):  # rows move down, so that the next ones are still there
            few = [row - at for row in path[at : at + FEW]]
            few += range(len(few), FEW)  # these stay
            words = memoryview(array("H", few)).cast("B").cast("q")
            move_path_kernel[(many, heads, -(-width // WIDTH))](
                cache, *words, first + at, *cache.stride()[:3], capacity, width=width, count=FEW,
                part=WIDTH, num_warps=4, **overlap(cache.device),
            )  # fmt: skip


def move_rows_plain(cache: Tensor, sources: Tensor, length: Tensor) -> None:
    """The same in plain PyTorch."""
    last = cache.shape[2] - 1
    to = (length + torch.arange(len(sources), device=cache.device)).clamp(max=last).long()
    held = sources.long().clamp(max=last)
    cache.index_copy_(2, to, cache.index_select(2, held))


def move_path_plain(cache: Tensor, first: int, path: list[int]) -> None:
    """The same in plain PyTorch, with a copy to the device."""
    numbers = torch.tensor([first, *(first + row for row in path)], dtype=torch.int32)
    (sent,) = send(cache.device, numbers)
    move_rows_plain(cache, sent[1:], sent[:1])


@jit
def move_rows_kernel(
    cache_ptr, sources_ptr, length_ptr, buffer_stride, head_stride, row_stride,
    capacity, width: tl.constexpr, count: tl.constexpr, padded: tl.constexpr,
    part: tl.constexpr, overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (buffer, head, some dimensions): all rows of a path, since they overlap."""
    begin(overlaps)
    row = tl.arange(0, padded)
    to = tl.load(length_ptr) + row
    held = (row < count) & (to < capacity)
    source = tl.load(sources_ptr + row, mask=held, other=0)
    _move(cache_ptr, source, to, held, buffer_stride, head_stride, row_stride, width, part)


@jit
def move_path_kernel(
    cache_ptr, a: tl.int64, b: tl.int64, c: tl.int64, d: tl.int64, first, buffer_stride, head_stride,
    row_stride, capacity, width: tl.constexpr, count: tl.constexpr, part: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """As `move_rows_kernel`, of sixteen rows, counted from the first: four in each of four words."""
    begin(overlaps)
    row = tl.arange(0, count)
    word = tl.where(row < 8, tl.where(row < 4, a, b), tl.where(row < 12, c, d))
    source = first + ((word >> row % 4 * 16) & 0xFFFF).to(tl.int32)
    to = first + row
    _move(cache_ptr, source, to, to < capacity, buffer_stride, head_stride, row_stride, width, part)


@jit
def _move(
    cache_ptr, source, to, held, buffer_stride, head_stride, row_stride, width: tl.constexpr,
    part: tl.constexpr,
):  # fmt: skip
    buffer = tl.program_id(0).to(tl.int64) * buffer_stride + tl.program_id(1) * head_stride
    d = tl.program_id(2) * part + tl.arange(0, part)
    inside = held[:, None] & (d < width)[None, :]
    x = tl.load(cache_ptr + buffer + source[:, None] * row_stride + d, mask=inside, other=0.0)
    tl.debug_barrier()  # all are read before one is written
    tl.store(cache_ptr + buffer + to[:, None] * row_stride + d, x, mask=inside)
