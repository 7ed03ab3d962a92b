"""Which executor runs a model, and why."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from toolkit.errors import ModelError
from toolkit.runtime.attention import Pass
from toolkit.runtime.executors.functional import FunctionalExecutor, against
from toolkit.runtime.executors.linears import (
    Linears,
    Packed,
    Rule,
    Ruled,
    Stock,
    known,
    packable,
    seconds,
    weight_of,
)
from toolkit.runtime.executors.module import ModuleExecutor
from toolkit.runtime.kernels import native
from toolkit.runtime.machine import remembered


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


def packs(module: PreTrainedModel) -> bool:
    """Whether to prepack a module's linears: where that is faster, or alone gives steady bits."""
    if not packable(module):
        return False
    found = remembered(("packs", *known_as(module)), lambda: {"packs": _packs(module)})
    return bool(found["packs"])


def _packs(module: PreTrainedModel) -> bool:
    weights = list({(w := weight_of(m)).shape: w for m in module.modules() if known(m)}.values())
    steps = {packed: _step(weights, packed) for packed in (False, True)}
    if (steps[True] is None) != (steps[False] is None):
        return steps[True] is not None
    took = {packed: seconds(weights, packed, Rule(step or 1)) for packed, step in steps.items()}
    return took[True] < took[False]


def _step(weights: list[Tensor], packed: bool) -> int | None:
    """At which rule one kernel keeps the bits of rows, for these shapes of weights."""
    linears = Linears(owned=False)
    for weight in weights:
        inner = Packed.of(weight, None) if packed else Stock(weight, None)
        linears.made.append(Ruled(inner, linears.rule))
    return linears.rule.step if linears.settle() else None


def chosen(
    module: PreTrainedModel, windows: tuple[int | None, ...], wanted: str, owned: bool
) -> Executor:
    """The executor of a loaded module. Raises `ModelError` when the one asked for cannot run it."""
    if wanted == "module":
        return ModuleExecutor.of(module, "it was asked for")
    reason = against(module)
    if reason is None:
        return functional(module, windows, owned)
    if wanted == "functional":
        raise ModelError(
            f"no functional executor for this {module.config.model_type} model: {reason}; executor "
            f"auto or module runs it"
        )
    return ModuleExecutor.of(module, reason)


def functional(
    module: PreTrainedModel, windows: tuple[int | None, ...], owned: bool
) -> FunctionalExecutor:
    """A described module's executor, with the linears that suit this machine."""
    linears = Linears(owned, packs(module), module.get_input_embeddings().weight)
    executor = FunctionalExecutor.of(module, windows, linears)
    if packable(module):
        executor.settle(known_as(module))
    return executor
