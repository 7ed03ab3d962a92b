"""Which kernel multiplies fastest by a module's weights, of those that are batch-invariant."""

from __future__ import annotations

from collections import Counter
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.runtime.compute.linears.batch_invariance import RowRule, find_row_multiple
from toolkit.runtime.compute.linears.kernels import (
    Blocked,
    Kernel,
    is_linear,
    kernels_for,
    weight_of,
)
from toolkit.runtime.kernels import native
from toolkit.runtime.machine.remembered import remembered

TIMED = (1, 8)  # counts of rows that are timed
REPEATS = 15
SPARED = 8e-5  # seconds of Python and PyTorch around a linear: with our kernel, passes run in C


def module_key(module: PreTrainedModel) -> tuple[str, ...]:
    """A module's key in the disk cache: its architecture, sizes and dtype, and what computes."""
    if module.device.type == "cuda":
        where = f"{torch.cuda.get_device_name(module.device)}, CUDA {torch.version.cuda}"
    else:
        kernels = native.library()
        where = kernels.isa if kernels else "none"
    return module.config.to_json_string(), str(module.dtype), where


def fastest_kernel(module: PreTrainedModel) -> type[Kernel]:
    """The kernel for a module's weights; timed once for its architecture, then remembered on disk."""
    kernels = {kernel.name: kernel for kernel in kernels_for(module)}
    if len(kernels) == 1:
        return kernels.popitem()[1]
    key = "kernel", *module_key(module)
    found = remembered(key, lambda: {"kernel": _fastest(module).name}, "Timing linears (once)")
    return kernels[found["kernel"]]


def _fastest(module: PreTrainedModel) -> type[Kernel]:
    linears = [weight_of(part) for part in module.modules() if is_linear(part)]
    weights = {weight.shape: weight for weight in linears}
    counts = Counter(weight.shape for weight in linears)
    multiples = {
        kernel: _row_multiple([*weights.values()], kernel) for kernel in kernels_for(module)
    }
    invariant = [kernel for kernel, multiple in multiples.items() if multiple] or list(multiples)
    rules = {kernel: RowRule(multiples[kernel] or 1) for kernel in invariant}
    took = seconds([(weights[shape], count) for shape, count in counts.items()], rules)
    if Blocked in took:
        took[Blocked] -= SPARED * len(linears) * len(TIMED)
    return min(invariant, key=lambda kernel: took[kernel])


def _row_multiple(weights: list[Tensor], kernel: type[Kernel]) -> int | None:
    """The row multiple at which a kernel is batch-invariant for weights of these shapes."""
    return find_row_multiple([kernel.of(weight, None) for weight in weights], weights[0].dtype)


def seconds(
    weights: list[tuple[Tensor, int]], rules: dict[type[Kernel], RowRule]
) -> dict[type[Kernel], float]:
    """Seconds by kernel for passes of `TIMED` rows through linears; `weights` are pairs of a weight
    [out, in] and how many linears have one of its shape.

    The kernels take turns, and the least time of each counts, because a busy machine slows all of them.
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


def _timed(linear: Any, x: Tensor) -> float:
    began = perf_counter()
    linear(x)
    return perf_counter() - began
