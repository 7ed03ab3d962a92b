"""The Hugging Face module itself, with our cache and our attention: every architecture that passes."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from toolkit.errors import ModelError
from toolkit.runtime.attention import Pass, bound
from toolkit.runtime.cache import TreeCache


@frozen(eq=False)
class ModuleExecutor:
    """Runs `module` over rows of tokens; the cache has room for them already."""

    module: torch.nn.Module

    def forward(self, tokens: Tensor, now: Pass, cache: TreeCache) -> Tensor:
        """Logits [N, V] of `tokens[N]`; their K/V become the cache's last N rows."""
        with bound(now):
            logits: Tensor = self.module(
                input_ids=tokens[None],
                position_ids=now.query_pos[None],
                past_key_values=cache,
                use_cache=True,
            ).logits[0]
        if not now.calls:
            raise ModelError(
                f"{type(self.module).__name__} does not use the attention that was set for it, so it "
                f"cannot decode trees: use another model"
            )
        return logits
