"""Add branches to the residual stream and norm the sum, in one launch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def add_and_norm(
    x: Tensor,
    branches: tuple[Tensor, ...],
    affines: tuple[tuple[Tensor | None, Tensor | None], ...],
    eps: float,
    rms: bool,
) -> tuple[Tensor, ...]:
    """Add up to two branches [M, E] to x [M, E] and norm the sum with up to two pairs of weight
    and bias [E]: (sum, normed, …), all [M, E].

    Branches are added in their order, and the sum is rounded after each. The norm is `rms` (Zhang &
    Sennrich 2019) or a layer norm (Ba et al. 2016), computed in float32. All pairs have the same parts.
    """
    if not runs(x):
        return add_and_norm_plain(x, branches, affines, eps, rms)
    rows, width = x.shape
    total = torch.empty_like(x) if branches else x
    normed = tuple(torch.empty_like(x) for _ in affines)
    first, second = affines[0], affines[-1]
    one, other = (branches[0], branches[-1]) if branches else (x, x)
    with device_of(x):
        add_and_norm_kernel[(rows,)](
            x, one, other, total, *(part if part is not None else x for part in (*first, *second)),
            normed[0], normed[-1], eps, width=width, padded=power_of_two(width), rms=rms,
            branches=len(branches), norms=len(affines), weighted=first[0] is not None,
            biased=first[1] is not None, num_warps=min(16, max(1, power_of_two(width) // 512)),
            **overlap(x.device),
        )  # fmt: skip
    return (total, *normed)


def add_and_norm_plain(
    x: Tensor,
    branches: tuple[Tensor, ...],
    affines: tuple[tuple[Tensor | None, Tensor | None], ...],
    eps: float,
    rms: bool,
) -> tuple[Tensor, ...]:
    """The same in plain PyTorch."""
    for branch in branches:
        x = x + branch
    normed = []
    for weight, bias in affines:
        wide = x if weight is None else x.to(weight.dtype)
        if rms:
            normed.append(F.rms_norm(wide, (x.shape[1],), weight, eps).to(x.dtype))
        else:
            normed.append(F.layer_norm(wide, (x.shape[1],), weight, bias, eps).to(x.dtype))
    return (x, *normed)


@jit
def add_and_norm_kernel(
    x_ptr, one_ptr, other_ptr, total_ptr, weight_ptr, bias_ptr, second_weight_ptr, second_bias_ptr,
    normed_ptr, second_normed_ptr, eps, width: tl.constexpr, padded: tl.constexpr,
    rms: tl.constexpr, branches: tl.constexpr, norms: tl.constexpr, weighted: tl.constexpr,
    biased: tl.constexpr, overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (row): all of a row at once, so that its bits depend on nothing else."""
    at = tl.arange(0, padded)
    inside = at < width
    if weighted:
        weight = tl.load(weight_ptr + at, mask=inside)
        second_weight = tl.load(second_weight_ptr + at, mask=inside) if norms > 1 else weight
    if biased:
        bias = tl.load(bias_ptr + at, mask=inside)
        second_bias = tl.load(second_bias_ptr + at, mask=inside) if norms > 1 else bias
    begin(overlaps)
    row = tl.program_id(0).to(tl.int64) * width + at
    x = tl.load(x_ptr + row, mask=inside, other=0.0)
    if branches > 0:
        x = (x.to(tl.float32) + tl.load(one_ptr + row, mask=inside, other=0.0)).to(x.dtype)
        if branches > 1:
            x = (x.to(tl.float32) + tl.load(other_ptr + row, mask=inside, other=0.0)).to(x.dtype)
        tl.store(total_ptr + row, x, mask=inside)
    x = x.to(tl.float32)
    if not rms:
        x = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    x = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    for i in tl.static_range(norms):
        y = x
        if weighted:
            y = y * (weight if i == 0 else second_weight)
        if biased:
            y = y + (bias if i == 0 else second_bias)
        to = normed_ptr if i == 0 else second_normed_ptr
        tl.store(to + row, y.to(to.dtype.element_ty), mask=inside)
