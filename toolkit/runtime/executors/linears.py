"""Linear maps of a loaded module as functions, prepacked for oneDNN where that is faster.

A row's result must not depend on how many rows go with it. Kernels keep to that for some counts of rows
and not for others (one row, or tiles of a matrix unit); `settle` finds a rule that they keep to.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from attrs import define, field, frozen
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Linear = Callable[[Tensor], Tensor]  # [M, in] → [M, out]
PACKABLE = (torch.float32, torch.bfloat16)
COUNTS = (*range(1, 65), 96, 128, 192, 256)  # of rows, compared bit by bit
BLOCK = 16  # rows of a matrix unit's tile
RULES = (1, 2, 4, BLOCK)  # any count; two at least; multiples of four; always blocks of sixteen
TIMED = (1, 8)  # counts of rows that the choice of a kernel is timed at
REPEATS = 15


@frozen(eq=False)
class Stock:
    """PyTorch's own linear."""

    weight: Tensor  # [out, in]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Linears of one kind are computed alike."""
        return "stock", self.weight.shape, self.weight.stride(), self.bias is None

    def probe(self) -> Stock:
        """One of this kind to look for differences with."""
        bias = None if self.bias is None else torch.zeros_like(self.bias)
        return Stock(probe_weight(self.weight), bias)


@frozen(eq=False)
class Packed:
    """oneDNN's linear on a weight that it has reordered for this CPU."""

    weight: Tensor  # opaque
    bias: Tensor | None

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Linears of one kind are computed alike."""
        return "packed", self.weight.shape, self.bias is None

    def probe(self) -> Packed:
        """One of this kind to look for differences with."""
        bias = None if self.bias is None else torch.zeros_like(self.bias)
        like = torch.empty(self.weight.shape, dtype=self.weight.dtype)
        return Packed.of(probe_weight(like), bias)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Packed:
        """Reorder a weight [out, in] into a copy."""
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return cls(packed, bias)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


@frozen(eq=False)
class SideBySide:
    """Several linears of one input, their outputs one after the other."""

    parts: tuple[Stock, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


@define(eq=False)
class Rule:
    """From which counts of rows a model's linears are computed: one of `RULES`."""

    step: int = 1

    @property
    def said(self) -> str:
        return {1: "any count of rows", 2: "two rows at least", 4: "rows in multiples of four"}.get(
            self.step, f"blocks of {self.step} rows"
        )

    def padded(self, count: int) -> int:
        """The canonical count of rows for `count` of them."""
        return max(count, 2) if self.step == 2 else -(-count // self.step) * self.step


@frozen(eq=False)
class Ruled:
    """A linear that keeps to a rule; a prompt's rows, the same in every schedule, go in one piece."""

    inner: Packed | Stock | SideBySide
    rule: Rule

    @property
    def parts(self) -> tuple[Packed | Stock, ...]:
        return self.inner.parts if isinstance(self.inner, SideBySide) else (self.inner,)

    def __call__(self, x: Tensor) -> Tensor:
        if self.rule.step == BLOCK and BLOCK < len(x) <= max(COUNTS):
            return torch.cat([self.inner(block) for block in x.split(BLOCK)])
        return self.inner(x)


@define(eq=False)
class Linears:
    """Makes functions of a module's linears.

    `owned`: nobody else holds the module. Then linears with one input share one weight, and what was
    packed is let go of; a module that was lent stays as it is, and packed weights lie beside its own.
    """

    owned: bool
    packed: bool = False
    embedding: Tensor | None = None  # a head's weight that embeds tokens, too, must stay
    rule: Rule = field(factory=Rule)
    made: list[Ruled] = field(factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the rows."""
        return self.made[0].parts[0].weight.dtype

    def fused(self, *modules: nn.Module) -> Linear:
        """One function of linears with the same input."""
        inner = self._packed(modules) if self.packed else self._stock(modules)
        self.made.append(Ruled(inner, self.rule))
        return self.made[-1]

    def _packed(self, modules: tuple[nn.Module, ...]) -> Packed:
        made = Packed.of(*joined(modules))
        for module in modules:
            if self.owned and not self._embeds(module):
                module.weight.data = torch.empty(0, dtype=made.weight.dtype)
        return made

    def _embeds(self, module: Any) -> bool:
        return self.embedding is not None and module.weight.data_ptr() == self.embedding.data_ptr()

    def _stock(self, modules: tuple[nn.Module, ...]) -> Stock | SideBySide:
        if len(modules) == 1:
            return Stock(weight_of(modules[0]), bias_of(modules[0]))
        unbiased = {bias_of(module) is None for module in modules}
        if not self.owned or len(unbiased) > 1:
            return SideBySide(tuple(Stock(weight_of(m), bias_of(m)) for m in modules))
        made = Stock(*joined(modules))
        first = 0
        for module in modules:
            last = first + len(weight_of(module))
            module.weight.data = made.weight[first:last]
            first = last
        return made

    def settle(self) -> bool:
        """Set the first rule at which every kind of linear gives a row the same bits whatever goes
        with it; False, and no rule, if there is none."""
        kinds = {part.kind: part for made in self.made for part in made.parts}
        probes = [Ruled(part.probe(), self.rule) for part in kinds.values()]
        for self.rule.step in RULES:
            if all(invariant(probe, self.rule, self.dtype) for probe in probes):
                return True
        self.rule.step = 1
        return False


def pairs(inputs: int) -> Tensor:
    """Which of the first half of columns each of the second half is paired with."""
    return torch.randperm(inputs // 2, generator=torch.Generator().manual_seed(0))


def probe_weight(like: Tensor) -> Tensor:
    """A weight [out, in] of the shape and strides of another, whose columns come in equal pairs."""
    inputs, weight = like.shape[1], torch.empty_like(like)
    weight.copy_(torch.randn(like.shape, generator=torch.Generator().manual_seed(1)))
    weight[:, inputs // 2 : inputs // 2 * 2] = weight[:, pairs(inputs)]
    return weight


def probe_rows(count: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """Rows [count, in] whose products with a `probe_weight` cancel but for a trace: what is left is
    the rounding of the sum, and shows the order of summation even in low precision."""
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(2)).to(dtype)
    rows[:, inputs // 2 : inputs // 2 * 2] = -rows[:, pairs(inputs)]
    return rows


def invariant(linear: Ruled, rule: Rule, dtype: torch.dtype) -> bool:
    """Whether rows of a linear keep their bits at every canonical count, permuted, among others."""
    rng = torch.Generator().manual_seed(1)
    rows = probe_rows(max(COUNTS), linear.parts[0].inputs, dtype)
    whole = linear(rows)
    for count in {rule.padded(count) for count in COUNTS}:
        order = torch.randperm(len(rows), generator=rng)[:count]
        if not torch.equal(linear(rows[order]), whole[order]):
            return False
    return True


def seconds(weights: list[Tensor], packed: bool, rule: Rule) -> float:
    """What passes of `TIMED` rows take in linears with these weights [out, in], padded to a rule."""
    made = [Packed.of(weight, None) if packed else Stock(weight, None) for weight in weights]
    counts = [rule.padded(count) for count in TIMED]
    return sum(_least(linear, count) for linear in made for count in counts)


def _least(linear: Stock | Packed, count: int) -> float:
    """The least of `REPEATS` times."""
    x, times = torch.randn(count, linear.inputs).to(linear.weight.dtype), []
    for _ in range(REPEATS):
        began = perf_counter()
        linear(x)
        times.append(perf_counter() - began)
    return min(times)


def packable(module: Any) -> bool:
    """Whether oneDNN can prepack the weights of a loaded module."""
    return (
        torch.backends.mkldnn.is_available()
        and module.device.type == "cpu"
        and module.dtype in PACKABLE
    )


def joined(modules: tuple[nn.Module, ...]) -> tuple[Tensor, Tensor | None]:
    """One weight [out, in] and bias [out] of linears with the same input; no bias is zero beside
    others."""
    weights, biases = [weight_of(m) for m in modules], [bias_of(m) for m in modules]
    if len(modules) == 1:
        return weights[0], biases[0]
    bias = None
    if any(b is not None for b in biases):
        filled = [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases)]  # noqa: B905
        bias = torch.cat(filled)
    return torch.cat(weights), bias


def known(module: Any) -> bool:
    """Whether a module is a plain linear, and not one that something else has wrapped."""
    return type(module) in (nn.Linear, Conv1D)


def weight_of(module: Any) -> Tensor:
    """A linear's weight as [out, in]; GPT-2 stores it the other way round."""
    weight: Tensor = module.weight.detach()
    return weight.t() if isinstance(module, Conv1D) else weight


def bias_of(module: Any) -> Tensor | None:
    """A linear's bias [out], where it has one."""
    return None if module.bias is None else module.bias.detach()
