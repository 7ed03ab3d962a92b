"""Makes functions of a module's linears."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn

from toolkit.runtime.compute.linears.batch_invariance import (
    TILE,
    RowRule,
    RuledLinear,
    find_row_multiple,
    find_whole,
)
from toolkit.runtime.compute.linears.kernels import (
    Blocked,
    Kernel,
    Packed,
    SideBySide,
    Stock,
    bias_of,
    weight_of,
)
from toolkit.runtime.machine.remembered import remembered


@define(eq=False)
class Linears:
    """Makes functions of a module's linears, all with one kernel and under one rule.

    `owned`: nobody else holds the module. Then stock linears of one input share one weight, and weights
    that were copied into another layout are freed. A module that somebody else holds is not changed.
    """

    owned: bool
    kernel: type[Kernel] = Stock
    embedding: Tensor | None = None  # a head's weight that also embeds tokens is never freed
    rule: RowRule = field(factory=RowRule)
    functions: list[RuledLinear] = field(factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and rows."""
        return self.functions[0].parts[0].weight.dtype

    @property
    def description(self) -> str:
        """Which kernel multiplies, and for which counts of rows."""
        return f"{self.kernel.name}, {self.rule.description}"

    def fuse(self, *modules: nn.Module) -> RuledLinear:
        """One function [M, in] → [M, out] of linears with the same input."""
        makes = {Packed: self._packed, Blocked: self._blocked}
        made = makes.get(self.kernel, self._in_place)(modules)
        self.functions.append(RuledLinear(made, self.rule))
        return self.functions[-1]

    def set_rule(self, about: tuple[str, ...]) -> bool:
        """Set the rule under which these linears are batch-invariant; False if there is none.

        It is found once for `about`, which identifies the model, and then remembered on disk.
        """
        key = "rule", self.kernel.name, str(self.owned), *about
        found = remembered(
            key,
            self._find_rule,
            "Comparing the bits of linears (once)",
        )
        self.rule.row_multiple = found["row_multiple"] or 1
        self.rule.whole = frozenset(found.get("whole", ()))
        return found["row_multiple"] is not None

    def find_row_multiple(self) -> int | None:
        """As `batch_invariance.find_row_multiple`, for all functions made so far."""
        return find_row_multiple(self._kernels, self.dtype, self.rule.largest)

    def _find_rule(self) -> dict[str, Any]:
        row_multiple = self.find_row_multiple()
        tiles = row_multiple == TILE and self._kernels[0].weight.is_cuda
        whole = find_whole(self._kernels, self.dtype, self.rule.largest) if tiles else ()
        return {"row_multiple": row_multiple, "whole": sorted(whole)}

    @property
    def _kernels(self) -> list[Kernel]:
        return [part for made in self.functions for part in made.parts]

    def _packed(self, modules: tuple[nn.Module, ...]) -> Packed:
        made = Packed.of(*_joined(modules))
        for module in modules:
            self._free(module)
        return made

    def _blocked(self, modules: tuple[nn.Module, ...]) -> SideBySide | Blocked:
        made = []
        for module in modules:  # not joined, because the decoder in C reads them one by one
            made.append(Blocked.of(weight_of(module), bias_of(module)))
            self._free(module)
        return made[0] if len(made) == 1 else SideBySide(tuple(made))

    def _free(self, module: Any) -> None:
        """Free a weight that has been copied."""
        embeds = self.embedding is not None and (
            module.weight.data_ptr() == self.embedding.data_ptr()
        )
        if self.owned and not embeds:
            module.weight.data = torch.empty(0, dtype=module.weight.dtype)

    def _in_place(self, modules: tuple[nn.Module, ...]) -> Kernel | SideBySide:
        """Linears whose kernel reads weights as modules have them, and so shares them."""
        of = self.kernel.of
        if len(modules) == 1:
            return of(weight_of(modules[0]), bias_of(modules[0]))
        unbiased = {bias_of(module) is None for module in modules}
        if not self.owned or len(unbiased) > 1:
            return SideBySide(tuple(of(weight_of(m), bias_of(m)) for m in modules))
        made = of(*_joined(modules))
        first = 0
        for module in modules:
            last = first + len(weight_of(module))
            module.weight.data = made.weight[first:last]
            first = last
        return made


def _joined(modules: tuple[nn.Module, ...]) -> tuple[Tensor, Tensor | None]:
    """One weight [out, in] and bias [out] of linears with the same input. A missing bias is zero where
    another linear has one."""
    weights, biases = [weight_of(m) for m in modules], [bias_of(m) for m in modules]
    if len(modules) == 1:
        return weights[0], biases[0]
    bias = None
    if any(b is not None for b in biases):
        filled = [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases)]  # noqa: B905
        bias = torch.cat(filled)
    return torch.cat(weights), bias
