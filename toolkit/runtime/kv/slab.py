"""Slab: the K/V buffers of all layers in one tensor that stays where it is, because graphs write to it.

A model's slabs outlive requests: a new request takes one that nobody holds, with its captured graphs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import ReferenceType, ref

import torch
from attrs import define, field
from torch import Tensor

from toolkit.runtime.kernels.triton.move_rows import move_path

SMALLEST = 1024  # rows

Result = TypeVar("Result")


class Holder(Protocol):
    """What holds a slab: a cache."""

    slab: Slab | None


@define(eq=False)
class Nobody:
    """Holds no slab: what it takes is free for the next cache."""

    slab: Slab | None = None


@define(eq=False)
class Slab:
    """Keys and values [2, layers, H_kv, rows, D]. The last row is for the padding of passes."""

    buffer: Tensor
    holder: ReferenceType[Holder]
    room: int  # rows for K/V
    graphs: dict[Any, Any] = field(factory=dict)  # the captured executor's

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, H_kv, rows, D] of one layer."""
        keys, values = self.buffer[:, index : index + 1]
        return keys, values

    def move(self, first: int, rows: list[int]) -> None:
        """Copy rows `first` + `rows[A]` of every layer to the rows from `first` on. All are read before
        one is written."""
        move_path(self.buffer.flatten(0, 1), first, rows)


@define(eq=False)
class Slabs:
    """The slabs of one model."""

    shape: tuple[int, int, int]  # layers, H_kv, D
    dtype: torch.dtype
    device: torch.device
    _slabs: list[Slab] = field(init=False, factory=list)

    def take(self, holder: Holder, rows: int) -> Slab:
        """A slab with room for `rows` rows that no other cache holds."""
        room = max(SMALLEST, 1 << rows.bit_length())
        slab = self._free(room)
        if slab is None:
            layers, heads, width = self.shape
            size = 2, layers, heads, room, width
            buffer = try_twice(
                partial(torch.zeros, size, dtype=self.dtype, device=self.device), self
            )
            slab = Slab(buffer, ref(holder), room - 1)
            self._slabs.append(slab)
        slab.holder = ref(holder)
        return slab

    def forget(self) -> None:
        """Free the slabs that no cache holds, with their graphs."""
        gc.collect()
        self._slabs = [slab for slab in self._slabs if _held(slab)]

    def _free(self, room: int) -> Slab | None:
        """A slab of `room` rows without a holder."""
        fitting = (slab for slab in self._slabs if slab.room == room - 1)
        return next((slab for slab in fitting if not _held(slab)), None)


def try_twice(run: Callable[[], Result], *slabs: Slabs) -> Result:
    """What a function gives; where a lack of memory ends it, that of a second try, without the slabs of
    former requests."""
    try:
        return run()
    except torch.OutOfMemoryError:
        pass  # the second try begins after this: an error keeps alive what the first has made
    for each in slabs:
        each.forget()
    return run()


def _held(slab: Slab) -> bool:
    holder = slab.holder()
    return holder is not None and holder.slab is slab
