"""Runs the Hugging Face module itself, with our cache and attention: for any supported architecture."""

from __future__ import annotations

from inspect import signature
from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor

from toolkit.errors import ModelError
from toolkit.runtime.compute.attention import Pass, bound


@frozen(eq=False)
class ModuleExecutor:
    """Runs `module` over rows of tokens; the cache already has room for them."""

    module: torch.nn.Module
    keeps_logits: bool  # whether the module has an argument `logits_to_keep`
    why: str
    name: ClassVar[str] = "module"
    linears: ClassVar[str] = "the module's own"
    batch_invariant: ClassVar[bool] = False  # the module's kernels are not probed
    slabs: ClassVar[None] = None
    failure: ClassVar[None] = None

    @classmethod
    def of(cls, module: torch.nn.Module, why: str) -> ModuleExecutor:
        """An executor of a module; `why` says why it was chosen."""
        return cls(module, "logits_to_keep" in signature(module.forward).parameters, why)

    @torch.no_grad()
    def forward(self, now: Pass, keep: int = 0) -> Tensor:
        """Logits [N, V] of the pass's tokens; their K/V become the last N rows of the pass's cache.

        With `keep`, only the last `keep` rows' logits: [keep, V].
        """
        with bound(now):
            logits: Tensor = self.module(
                input_ids=now.rows.tokens[None],
                position_ids=now.rows.query_pos[None],
                past_key_values=now.cache,
                use_cache=True,
                **({"logits_to_keep": keep} if keep and self.keeps_logits else {}),
            ).logits[0]
        layers = len(now.cache.layers)
        if now.calls < layers:
            raise ModelError(
                f"only {now.calls} of {layers} layers use the attention that was set for "
                f"{type(self.module).__name__}: leave its attention alone while a pipeline uses it"
            )
        return logits[len(logits) - keep :] if keep else logits
