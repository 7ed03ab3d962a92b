"""Which counts of rows give every row the same bits, whatever other rows are computed with it.

Our kernels do so for any count. Others do for some counts only: two rows at least, or whole tiles of a
matrix unit. Each kernel is probed with rows whose products cancel, which shows the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from attrs import define, frozen
from torch import Tensor

from toolkit.runtime.compute.linears.kernels import Kernel, SideBySide
from toolkit.runtime.kernels.triton.linear import SkinnyLinear

COUNTS = (*range(1, 65), 96, 128, 192, 256)  # of rows that are compared bit by bit
TILE = 16  # rows of a matrix unit's tile
ROW_MULTIPLES = (1, 2, 4, TILE)  # any count; at least two; multiples of four; tiles of sixteen
DESCRIPTIONS = {1: "any count of rows", 2: "two rows at least", 4: "rows in multiples of four"}


@define(eq=False)
class RowRule:
    """The counts of rows that a model's linears are computed for: one of `ROW_MULTIPLES`.

    All linears of a model share one rule, which is set once they have been probed. Passes of more than
    `largest` rows are prompts. `whole`: the kinds of linears that need no tiles, which only a GPU has.
    """

    row_multiple: int = 1
    largest: int = max(COUNTS)
    whole: frozenset[str] = frozenset()

    @property
    def description(self) -> str:
        return DESCRIPTIONS.get(self.row_multiple, f"blocks of {self.row_multiple} rows")

    def padded(self, count: int) -> int:
        """How many rows to compute for `count` rows."""
        if self.row_multiple == 2:
            return max(count, 2)
        return -(-count // self.row_multiple) * self.row_multiple


@frozen(eq=False)
class RuledLinear:
    """A linear that follows a rule: x [M, in] → [M, out], activated by `act` where it `activates`.

    Rows of a prompt, which every schedule cuts alike, are computed in one piece.
    """

    kernel: Kernel | SideBySide
    rule: RowRule

    @property
    def parts(self) -> tuple[Kernel, ...]:
        return self.kernel.parts if isinstance(self.kernel, SideBySide) else (self.kernel,)

    @property
    def activates(self) -> bool:
        """Whether the kernel can activate what it computes."""
        return isinstance(self.kernel, SkinnyLinear)

    def __call__(self, x: Tensor, act: str | None = None) -> Tensor:
        kernel: Callable[[Tensor], Tensor] = self.kernel
        if isinstance(kernel, SkinnyLinear):
            kernel = partial(kernel, act=act)
        tiled = self.rule.row_multiple == TILE and TILE < len(x) <= self.rule.largest
        if tiled and not all(str(part.kind) in self.rule.whole for part in self.parts):
            return torch.cat([kernel(tile) for tile in x.split(TILE)])
        return kernel(x)


def find_row_multiple(
    kernels: Iterable[Kernel], dtype: torch.dtype, largest: int = max(COUNTS)
) -> int | None:
    """The first of `ROW_MULTIPLES` at which all kernels are batch-invariant for up to `largest` rows of
    `dtype`; None where there is none."""
    probes = [probe_of(kernel) for kernel in {kernel.kind: kernel for kernel in kernels}.values()]
    for row_multiple in ROW_MULTIPLES:
        rule = RowRule(row_multiple, largest)
        if all(batch_invariant(RuledLinear(probe, rule), dtype) for probe in probes):
            return row_multiple
    return None


def batch_invariant(linear: RuledLinear, dtype: torch.dtype) -> bool:
    """Whether a row has the same bits at every count of rows that the rule allows, and at every place
    among other rows."""
    rng, most = torch.Generator().manual_seed(1), linear.rule.largest
    rows = probe_rows(most, linear.parts[0].inputs, dtype).to(linear.parts[0].weight.device)
    whole = linear(rows)
    for count in {linear.rule.padded(count) for count in COUNTS if count <= most}:
        order = torch.randperm(len(rows), generator=rng)[:count]
        if not torch.equal(linear(rows[order]), whole[order]):
            return False
    return True


def find_whole(kernels: Iterable[Kernel], dtype: torch.dtype, largest: int) -> set[str]:
    """The kinds of those kernels that give a row of a tile the same bits among more tiles."""
    tiles = RowRule(TILE, largest)
    found = set()
    for kind, kernel in {str(kernel.kind): kernel for kernel in kernels}.items():
        probe = probe_of(kernel)
        rule = RowRule(TILE, largest, frozenset([kind]))
        rows = probe_rows(largest, probe.inputs, dtype).to(probe.weight.device)
        expected = RuledLinear(probe, tiles)(rows)
        counts = range(2 * TILE, largest + 1, TILE)
        if batch_invariant(RuledLinear(probe, rule), dtype) and all(
            torch.equal(probe(rows[:count]), expected[:count]) for count in counts
        ):
            found.add(kind)
    return found


def probe_of(kernel: Kernel) -> Kernel:
    """A kernel of the same kind with a probe's weight."""
    bias = None if kernel.bias is None else torch.zeros_like(kernel.bias)
    return type(kernel).of(probe_weight(kernel.like), bias)


def probe_weight(like: Tensor) -> Tensor:
    """A weight [out, in] of the shape and strides of another, whose columns come in equal pairs."""
    inputs, weight = like.shape[1], torch.empty_like(like)
    rng = torch.Generator(like.device).manual_seed(1)
    weight.copy_(torch.randn(like.shape, generator=rng, device=like.device))
    weight[:, inputs // 2 : inputs // 2 * 2] = weight[:, _pairs(inputs)]
    return weight


def probe_rows(count: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """Rows [count, in] whose products with a `probe_weight` cancel.

    Only the rounding of the sum is left. It shows the order of summation even in low precision.
    """
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(2)).to(dtype)
    rows[:, inputs // 2 : inputs // 2 * 2] = -rows[:, _pairs(inputs)]
    return rows


def _pairs(inputs: int) -> Tensor:
    """For each column of the second half, the column of the first half that it is paired with."""
    return torch.randperm(inputs // 2, generator=torch.Generator().manual_seed(0))
