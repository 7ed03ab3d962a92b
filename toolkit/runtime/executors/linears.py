"""Linear maps of a loaded module as functions."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class Linear(Protocol):
    """A map of rows: [M, in] → [M, out]."""

    def __call__(self, x: Tensor) -> Tensor: ...


@frozen(eq=False)
class Stock:
    """PyTorch's own linear."""

    weight: Tensor  # [out, in]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@frozen(eq=False)
class SideBySide:
    """Several linears of one input, their outputs one after the other."""

    parts: tuple[Linear, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


@frozen(eq=False)
class Linears:
    """Makes functions of a module's linears.

    `owned`: nobody else holds the module, so that linears with one input may share one weight.
    """

    owned: bool

    def fused(self, *modules: nn.Module) -> Linear:
        """One function of linears with the same input; the module's weights become views of it."""
        weights, biases = [weight_of(m) for m in modules], [bias_of(m) for m in modules]
        if len(modules) == 1:
            return Stock(weights[0], biases[0])
        if not self.owned or len({bias is None for bias in biases}) > 1:
            return SideBySide(tuple(map(Stock, weights, biases)))
        weight, bias = torch.cat(weights), None
        present = [b for b in biases if b is not None]
        if present:
            bias = torch.cat(present)
        first = 0
        for module, part in zip(modules, weights, strict=True):
            module.weight.data = weight[first : first + len(part)]
            first += len(part)
        return Stock(weight, bias)


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
