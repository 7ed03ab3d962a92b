"""Which executor runs a model, and why."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from toolkit.errors import ModelError
from toolkit.runtime.attention import Pass
from toolkit.runtime.executors.blocks.parts import Unsupported
from toolkit.runtime.executors.functional import FunctionalExecutor
from toolkit.runtime.executors.linears import Linears
from toolkit.runtime.executors.module import ModuleExecutor


class Executor(Protocol):
    """Runs a model's forward pass; every executor writes the same cache."""

    @property
    def name(self) -> str: ...

    @property
    def why(self) -> str:
        """Why this one, in a few words."""

    def forward(self, tokens: Tensor, now: Pass, keep: int = 0) -> Tensor:
        """Logits [N, V] of `tokens[N]`; their K/V become the last N rows of the pass's cache.

        `keep` asks for the last rows' logits alone, [keep, V]; 0 for all.
        """


def chosen(
    module: PreTrainedModel, windows: tuple[int | None, ...], wanted: str, owned: bool
) -> Executor:
    """The executor of a loaded module. Raises `ModelError` when the one asked for cannot run it."""
    if wanted == "module":
        return ModuleExecutor.of(module, "it was asked for")
    try:
        return FunctionalExecutor.of(module, windows, Linears(owned))
    except Unsupported as error:
        if wanted == "functional":
            raise ModelError(
                f"no functional executor for this {module.config.model_type} model: {error}; "
                f"executor auto or module runs it"
            ) from error
        return ModuleExecutor.of(module, str(error))
