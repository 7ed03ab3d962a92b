"""Which executor runs a model, and why."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from toolkit.errors import ModelError
from toolkit.runtime.compute.attention import Pass
from toolkit.runtime.compute.executors.functional import FunctionalExecutor, against
from toolkit.runtime.compute.executors.linears import (
    TIMED,
    Blocked,
    Kernel,
    Linears,
    Rule,
    Ruled,
    kernels_for,
    known,
    seconds,
    weight_of,
)
from toolkit.runtime.compute.executors.module import ModuleExecutor
from toolkit.runtime.kernels import native
from toolkit.runtime.machine.remembered import remembered

SPARED = 8e-5  # seconds that Python and PyTorch take around a linear: with ours, passes run in C


class Executor(Protocol):
    """Runs a model's forward pass; every executor writes the same cache."""

    @property
    def name(self) -> str: ...

    @property
    def why(self) -> str:
        """Why this one, in a few words."""

    @property
    def linears(self) -> str:
        """Which kernel multiplies, and from which counts of rows."""

    @property
    def steady(self) -> bool:
        """Whether its linears are known to give a row the same bits whatever goes with it."""

    def forward(self, tokens: Tensor, now: Pass, keep: int = 0) -> Tensor:
        """Logits [N, V] of `tokens[N]`; their K/V become the last N rows of the pass's cache.

        `keep` asks for the last rows' logits alone, [keep, V]; 0 for all.
        """


def known_as(module: PreTrainedModel) -> tuple[str, ...]:
    """What was found out about a module holds for all of its architecture, sizes and dtype."""
    kernels = native.library()
    return module.config.to_json_string(), str(module.dtype), kernels.isa if kernels else "none"


def kernel_of(module: PreTrainedModel) -> type[Kernel]:
    """What multiplies by a module's weights: of the kernels that give steady bits the fastest."""
    kernels = {kernel.name: kernel for kernel in kernels_for(module)}
    if len(kernels) == 1:
        return kernels.popitem()[1]
    about = "kernel", *known_as(module)
    found = remembered(about, lambda: {"kernel": _fastest(module).name}, "Timing linears (once)")
    return kernels[found["kernel"]]


def _fastest(module: PreTrainedModel) -> type[Kernel]:
    linears = [weight_of(part) for part in module.modules() if known(part)]
    weights = {weight.shape: weight for weight in linears}
    counts = Counter(weight.shape for weight in linears)
    steps = {kernel: _step([*weights.values()], kernel) for kernel in kernels_for(module)}
    steady = [kernel for kernel, step in steps.items() if step is not None] or list(steps)
    rules = {kernel: Rule(steps[kernel] or 1) for kernel in steady}
    took = seconds([(weights[shape], count) for shape, count in counts.items()], rules)
    if Blocked in took:
        took[Blocked] -= SPARED * len(linears) * len(TIMED)
    return min(steady, key=lambda kernel: took[kernel])


def _step(weights: list[Tensor], kernel: type[Kernel]) -> int | None:
    """At which rule one kernel keeps the bits of rows, for these shapes of weights."""
    linears = Linears(owned=False)
    linears.made = [Ruled(kernel.of(weight, None), linears.rule) for weight in weights]
    return linears.rule.step if linears.settle() else None


def chosen(
    module: PreTrainedModel, windows: tuple[int | None, ...], wanted: str, owned: bool
) -> Executor:
    """The executor of a loaded module. Raises `ModelError` when the one asked for cannot run it."""
    if wanted == "module":
        return ModuleExecutor.of(module, "it was asked for")
    if wanted == "functional":
        require_functional(module)
    reason = against(module)
    if reason is None:
        return functional(module, windows, owned)
    return ModuleExecutor.of(module, reason)


def require_functional(module: PreTrainedModel) -> None:
    """Raise `ModelError` when the functional executor cannot run a module, with weights or without."""
    reason = against(module)
    if reason is not None:
        raise ModelError(
            f"no functional executor for this {module.config.model_type} model: {reason}; executor "
            f"auto or module runs it"
        )


def functional(
    module: PreTrainedModel, windows: tuple[int | None, ...], owned: bool
) -> FunctionalExecutor:
    """A described module's executor, with the linears that suit this machine."""
    linears = Linears(owned, kernel_of(module), module.get_input_embeddings().weight)
    executor = FunctionalExecutor.of(module, windows, linears)
    if len(kernels_for(module)) > 1:
        executor.settle(known_as(module))
    return executor
