"""Which executor runs a model, and why."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from toolkit.errors import ModelError
from toolkit.runtime.compute.attention import Pass
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.compute.executors.compare_logits import (
    find_difference,
    find_difference_of_graphs,
    probe,
)
from toolkit.runtime.compute.executors.functional_executor import (
    FunctionalExecutor,
    reason_not_described,
)
from toolkit.runtime.compute.executors.module_executor import ModuleExecutor
from toolkit.runtime.compute.executors.stock_attention import find_stock_rows
from toolkit.runtime.compute.linears.kernels import kernels_for
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kv.slab import Slabs


class Executor(Protocol):
    """Runs a model's forward pass. All executors write the same cache."""

    @property
    def name(self) -> str: ...

    @property
    def why(self) -> str:
        """Why this executor was chosen, in a few words."""

    @property
    def linears(self) -> str:
        """Which kernel multiplies, and for which counts of rows."""

    @property
    def batch_invariant(self) -> bool:
        """Whether its linears were found to give a row the same bits whatever other rows are computed
        with it."""

    @property
    def slabs(self) -> Slabs | None:
        """Where its sessions keep K/V; None for buffers of their own."""

    @property
    def failure(self) -> str | None:
        """Why capturing its passes failed; None where it did not, or was not tried."""

    def forward(self, now: Pass, keep: int = 0) -> Tensor:
        """Logits [N, V] of the pass's tokens; their K/V become the last N rows of the pass's cache.

        With `keep`, only the last `keep` rows' logits: [keep, V].
        """


def choose_executor(
    module: PreTrainedModel, windows: tuple[int | None, ...], wanted: str, owned: bool
) -> Executor:
    """The executor of a loaded module. Raises `ModelError` when it cannot be the one that is wanted."""
    if wanted == "module":
        return ModuleExecutor.of(module, "it was asked for")
    if wanted == "functional":
        require_functional(module)
    reason = reason_not_described(module)
    if reason is None:
        expected = probe(ModuleExecutor.of(module, ""), module, windows)
        # Layer by layer, before weights are packed: then the module could not run any more.
        layers = FunctionalExecutor.of(module, windows, Linears(owned=False))
        reason = find_difference(layers, expected, module, windows)
        del layers  # which holds the weights that packing lets go of
        if reason is None:
            executor = make_functional(module, windows, owned)
            reason = find_difference(executor, expected, module, windows)
            if reason is None:
                if (captured := executor.captured) is not None and captured.failure is None:
                    captured.failure = find_difference_of_graphs(captured, expected, module, windows)
                return executor
            if owned:
                raise ModelError(f"{executor.linears}: {reason}; executor module runs it")
        if wanted == "functional":
            raise _no_functional(module, reason)
    return ModuleExecutor.of(module, reason)


def require_functional(module: PreTrainedModel) -> None:
    """Raise `ModelError` unless the functional executor can run a module, with weights or without."""
    reason = reason_not_described(module)
    if reason is not None:
        raise _no_functional(module, reason)


def _no_functional(module: PreTrainedModel, reason: str) -> ModelError:
    return ModelError(
        f"no functional executor for this {module.config.model_type} model: {reason}; executor auto or "
        f"module runs it"
    )


def make_functional(
    module: PreTrainedModel, windows: tuple[int | None, ...], owned: bool
) -> FunctionalExecutor:
    """The functional executor of a described module, with what is fastest on this machine and costs
    no bits."""
    embedding = module.get_input_embeddings().weight
    linears = Linears(owned, fastest.fastest_kernel(module, windows, owned), embedding)
    executor = FunctionalExecutor.of(module, windows, linears)
    if executor.captured is not None or len(kernels_for(module)) > 1:
        executor.batch_invariant = linears.set_rule(fastest.module_key(module))
    if executor.captured is not None:
        about, keep_bits = fastest.module_key(module), executor.batch_invariant
        executor.captured.stock_rows = find_stock_rows(executor.captured, about, keep_bits=keep_bits)
    return executor
