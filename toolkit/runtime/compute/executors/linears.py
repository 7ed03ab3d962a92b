"""Linear maps of a loaded module as functions, by whichever kernel is fastest here.

A row's result must not depend on how many rows go with it. Ours are made so; others keep to that for
some counts of rows and not for others (one row, or tiles of a matrix unit): `settle` finds a rule that
they keep to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from toolkit.runtime.kernels import native, structs
from toolkit.runtime.machine.memory import in_large_pages

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
    name: ClassVar[str] = "PyTorch's own"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Stock:
        return cls(weight, bias)

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
    name: ClassVar[str] = "prepacked by oneDNN"

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
class Blocked:
    """Ours, in C: the weight in blocks of outputs, as `kernels.h` says."""

    weight: Tensor  # fp32 [blocks, in, 32], bf16 [blocks, in / 2, 2, 16, 2]
    bias: Tensor | None  # fp32 [out]
    inputs: int
    outputs: int
    kernels: native.Library  # for when they are switched off: nothing else reads this layout
    name: ClassVar[str] = "our own in C"

    @property
    def kind(self) -> tuple[Any, ...]:
        """Linears of one kind are computed alike."""
        return "blocked", self.inputs, self.outputs, self.bias is None

    def probe(self) -> Blocked:
        """One of this kind to look for differences with."""
        bias = None if self.bias is None else torch.zeros_like(self.bias)
        like = torch.empty(self.outputs, self.inputs, dtype=self.weight.dtype)
        return Blocked.of(probe_weight(like), bias)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Blocked:
        """Lay a weight [out, in] out anew, in a copy."""
        outputs, inputs = weight.shape
        if weight.dtype is torch.float32:
            whole = pad(weight, (0, 0, 0, -outputs % structs.OUTPUTS))
            laid = whole.view(-1, structs.OUTPUTS, inputs).transpose(1, 2)
        else:
            whole = pad(weight, (0, -inputs % structs.INPUTS, 0, -outputs % structs.OUTPUTS))
            laid = whole.view(-1, 2, structs.OUTPUTS // 2, whole.shape[1] // 2, 2)
            laid = laid.permute(0, 3, 1, 2, 4)
        bias = None if bias is None else bias.to(torch.float32, copy=True)
        return cls(in_large_pages(laid), bias, inputs, outputs, native.compiled())

    def __call__(self, x: Tensor) -> Tensor:
        return (native.library() or self.kernels).linear(self.struct, x)

    @property
    def struct(self) -> structs.Linear:
        """As the kernels want it."""
        return structs.Linear(
            self.weight.data_ptr(),
            structs.address(self.bias),
            self.inputs,
            self.outputs,
            structs.DTYPES[self.weight.dtype],
        )


@frozen(eq=False)
class SideBySide:
    """Several linears of one input, their outputs one after the other."""

    parts: tuple[Stock | Blocked, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


Kernel = Stock | Packed | Blocked


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

    inner: Kernel | SideBySide
    rule: Rule

    @property
    def parts(self) -> tuple[Kernel, ...]:
        return self.inner.parts if isinstance(self.inner, SideBySide) else (self.inner,)

    def __call__(self, x: Tensor) -> Tensor:
        if self.rule.step == BLOCK and BLOCK < len(x) <= max(COUNTS):
            return torch.cat([self.inner(block) for block in x.split(BLOCK)])
        return self.inner(x)


@define(eq=False)
class Linears:
    """Makes functions of a module's linears.

    `owned`: nobody else holds the module. Then stock linears with one input share one weight, and what
    was laid out anew is let go of; a module that was lent stays as it is, and copies lie beside it.
    """

    owned: bool
    kernel: type[Kernel] = Stock
    embedding: Tensor | None = None  # a head's weight that embeds tokens, too, must stay
    rule: Rule = field(factory=Rule)
    made: list[Ruled] = field(factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the rows."""
        return self.made[0].parts[0].weight.dtype

    def fused(self, *modules: nn.Module) -> Ruled:
        """One function of linears with the same input."""
        makes = {Stock: self._stock, Packed: self._packed, Blocked: self._blocked}
        self.made.append(Ruled(makes[self.kernel](modules), self.rule))
        return self.made[-1]

    def _packed(self, modules: tuple[nn.Module, ...]) -> Packed:
        made = Packed.of(*joined(modules))
        for module in modules:
            self._let_go(module)
        return made

    def _blocked(self, modules: tuple[nn.Module, ...]) -> SideBySide | Blocked:
        made = []
        for module in modules:  # side by side, and not as one: the pass in C takes them apart
            made.append(Blocked.of(weight_of(module), bias_of(module)))
            self._let_go(module)
        return made[0] if len(made) == 1 else SideBySide(tuple(made))

    def _let_go(self, module: Any) -> None:
        """Drop a weight of which there is a copy now."""
        embeds = self.embedding is not None and (
            module.weight.data_ptr() == self.embedding.data_ptr()
        )
        if self.owned and not embeds:
            module.weight.data = torch.empty(0, dtype=module.weight.dtype)

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


def seconds(
    weights: list[tuple[Tensor, int]], rules: dict[type[Kernel], Rule]
) -> dict[type[Kernel], float]:
    """What passes of `TIMED` rows take in linears with these weights [out, in], each so many times, by
    kernel.

    The kernels take turns, and their least times count: a busy machine slows down all of them.
    """
    total = dict.fromkeys(rules, 0.0)
    for weight, times in weights:
        made = {kernel: kernel.of(weight, None) for kernel in rules}
        for count in TIMED:
            rows = {kernel: _rows(rule.padded(count), weight) for kernel, rule in rules.items()}
            turns = [{k: _timed(made[k], rows[k]) for k in rules} for _ in range(REPEATS)]
            for kernel in rules:
                total[kernel] += times * min(turn[kernel] for turn in turns)
    return total


def _rows(count: int, weight: Tensor) -> Tensor:
    return torch.randn(count, weight.shape[1]).to(weight.dtype)


def _timed(linear: Kernel, x: Tensor) -> float:
    began = perf_counter()
    linear(x)
    return perf_counter() - began


def kernels_for(module: Any) -> list[type[Kernel]]:
    """The kernels that can multiply by the weights of a loaded module, the plainest first."""
    mixed = {part.dtype for part in module.parameters()} != {module.dtype}
    if module.device.type != "cpu" or module.dtype not in PACKABLE or mixed:
        return [Stock]
    ours: list[type[Kernel]] = [] if native.library() is None else [Blocked]
    theirs: list[type[Kernel]] = [Packed] if packs(module.dtype) else []
    return [Stock, *theirs, *ours]


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a linear of this dtype for this CPU; in bf16 that depends on the CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        Packed.of(torch.zeros(8, 8, dtype=dtype), None)(torch.zeros(1, 8, dtype=dtype))
    except RuntimeError:
        return False
    return True


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
