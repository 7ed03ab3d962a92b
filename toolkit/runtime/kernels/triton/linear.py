"""A linear layer for up to 64 rows that reads its weights once and gives a row the same bits always.

A program multiplies some outputs by a part of the inputs. How the inputs are split depends on the
layer's sizes alone. The last program to finish a tile of outputs adds the parts in their order.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from toolkit.runtime.kernels.triton.activations import ACTS, activate, activated
from toolkit.runtime.kernels.triton.jit import (
    begin,
    device_of,
    jit,
    overlap,
    power_of_two,
    runs,
    tl,
)

MOST_ROWS = 64
OUTPUTS, INPUTS = 64, 128  # of a tile of weights
PROGRAMS = 264  # at most about: two for each multiprocessor of an H100, which run at once


@frozen(eq=False)
class SkinnyLinear:
    """x [M, K] ↦ x · weightᵀ + bias [M, N], then perhaps an activation. Beyond 64 rows, and off the
    GPU, PyTorch multiplies."""

    weight: Tensor  # [N, K]
    bias: Tensor | None
    arrivals: Tensor  # int32, one for each tile of outputs; zero between launches
    name: ClassVar[str] = "our own in Triton"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> SkinnyLinear:
        """Such a layer over `weight[N, K]` and `bias[N]`, which it shares."""
        tiles = -(-len(weight) // OUTPUTS)
        return cls(weight, bias, torch.zeros(tiles, dtype=torch.int32, device=weight.device))

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Linears of one kind are computed alike."""
        return "skinny", self.weight.shape, self.weight.stride(), self.bias is None

    @property
    def like(self) -> Tensor:
        """A weight [out, in] of the same shape, strides and dtype; its values mean nothing."""
        return self.weight

    def __call__(self, x: Tensor, act: str | None = None) -> Tensor:
        """The product; with `act`, an activation's name in a config, activated."""
        rows, width = x.shape
        fits = rows <= MOST_ROWS and runs(x) and self.weight.stride(1) == 1
        if act is not None and not (fits and act in ACTS):
            return activate(act, self(x))
        if not fits:
            return F.linear(x, self.weight, self.bias)
        outputs, tiles, x = len(self.weight), len(self.arrivals), x.contiguous()
        step = INPUTS if x.dtype.itemsize == 2 else INPUTS // 4  # what fits into registers
        parts, blocks = split_inputs(width, tiles, step)
        padded = max(16, power_of_two(rows))
        out = x.new_empty(rows, outputs)
        sums = x.new_empty((parts, rows, outputs) if parts > 1 else 1, dtype=torch.float32)
        with device_of(x):
            skinny_linear[(tiles, parts)](
                x, self.weight, x if self.bias is None else self.bias, out, sums, self.arrivals,
                self.weight.stride(0), rows, outputs, width, blocks,
                whole=width % (parts * blocks * step) == 0 and outputs % OUTPUTS == 0,
                split=parts > 1, padded=padded, biased=self.bias is not None, act=act,
                tile=OUTPUTS, step=step, **overlap(x.device),
                num_warps=4, num_stages=4 if padded < MOST_ROWS else 3,
            )  # fmt: skip
        return out


def split_inputs(width: int, tiles: int, step: int) -> tuple[int, int]:
    """In how many parts K inputs are split for `tiles` tiles of outputs, and how many steps of `step`
    inputs each has."""
    steps = -(-width // step)
    most = max(1, min(steps, PROGRAMS // tiles))
    equal = next(parts for parts in range(most, 0, -1) if steps % parts == 0)
    if 4 * equal >= 3 * most:  # equal parts are faster, unless they are few
        return equal, steps // equal
    blocks = -(-steps // most)
    return -(-steps // blocks), blocks


@jit
def skinny_linear(
    x_ptr, weight_ptr, bias_ptr, out_ptr, sums_ptr, arrivals_ptr, weight_row, rows,
    outputs, width, blocks, whole: tl.constexpr, split: tl.constexpr, padded: tl.constexpr,
    biased: tl.constexpr, act: tl.constexpr, tile: tl.constexpr, step: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (tile of outputs, part of the inputs). Weights are the left factor: the rows of x are
    columns of the product, which tensor cores compute independently of each other."""
    begin(overlaps)
    part = tl.program_id(1)
    out = tl.program_id(0) * tile + tl.arange(0, tile)
    row = tl.arange(0, padded)
    k = part * blocks * step + tl.arange(0, step)
    weights = weight_ptr + out[:, None].to(tl.int64) * weight_row + k[None, :]
    x = x_ptr + row[:, None] * width + k[None, :]
    product = tl.zeros((tile, padded), tl.float32)
    for i in range(blocks):
        if whole:
            w = tl.load(weights)
        else:
            w = tl.load(weights, mask=(out < outputs)[:, None] & (k + i * step < width), other=0.0)
        held = (row < rows)[:, None] & (k + i * step < width)[None, :]
        product = tl.dot(w, tl.trans(tl.load(x, mask=held, other=0.0)), product,
                         input_precision="ieee")  # fmt: skip
        weights += step
        x += step
    kept = (out < outputs)[:, None] & (row < rows)[None, :]
    at = row[None, :] * outputs + out[:, None]
    if split:
        parts = tl.num_programs(1)
        tl.store(sums_ptr + part * rows * outputs + at, product, mask=kept)
        tl.debug_barrier()
        arrived = tl.atomic_add(arrivals_ptr + tl.program_id(0), 1, sem="acq_rel")
        if arrived == parts - 1:
            total = tl.zeros((tile, padded), tl.float32)
            for i in range(parts):
                total += tl.load(
                    sums_ptr + i * rows * outputs + at, mask=kept, other=0.0, cache_modifier=".cg"
                )
            _store(total, bias_ptr, out_ptr, out, at, kept, outputs, biased, act)
            tl.store(arrivals_ptr + tl.program_id(0), 0)
    else:
        _store(product, bias_ptr, out_ptr, out, at, kept, outputs, biased, act)


@jit
def _store(
    total, bias_ptr, out_ptr, out, at, kept, outputs, biased: tl.constexpr, act: tl.constexpr
):  # fmt: skip
    if biased:
        bias = tl.load(bias_ptr + out, mask=out < outputs, other=0.0)
        total += bias[:, None].to(tl.float32)
    y = total.to(out_ptr.dtype.element_ty)
    if act is not None:
        y = activated(y.to(tl.float32), act).to(y.dtype)
    tl.store(out_ptr + at, y, mask=kept)
