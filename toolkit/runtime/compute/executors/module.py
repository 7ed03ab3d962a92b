"""The Hugging Face module itself, with our cache and our attention: every architecture that passes."""

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
    """Runs `module` over rows of tokens; the cache has room for them already."""

    module: torch.nn.Module
    lasts: bool  # whether the module can give the logits of the last rows alone
    why: str
    name: ClassVar[str] = "module"
    linears: ClassVar[str] = "the module's own"
    steady: ClassVar[bool] = False  # whatever kernels the module calls: nobody has probed them

    @classmethod
    def of(cls, module: torch.nn.Module, why: str) -> ModuleExecutor:
        """An executor of a module, and why it is this one."""
        return cls(module, "logits_to_keep" in signature(module.forward).parameters, why)

    @torch.no_grad()
    def forward(self, tokens: Tensor, now: Pass, keep: int = 0) -> Tensor:
        """Logits [N, V] of `tokens[N]`; their K/V become the last N rows of the pass's cache.

        `keep` asks for the last rows' logits alone, [keep, V]; 0 for all.
        """
        with bound(now):
            logits: Tensor = self.module(
                input_ids=tokens[None],
                position_ids=now.query_pos[None],
                past_key_values=now.cache,
                use_cache=True,
                **({"logits_to_keep": keep} if keep and self.lasts else {}),
            ).logits[0]
        if not now.calls:
            raise ModelError(
                f"{type(self.module).__name__} does not use the attention that was set for it: leave "
                f"its attention alone while a pipeline uses it"
            )
        return logits[-keep:]
