"""Session: one model decoding one request. Weights are shared, the cache is its own."""

from __future__ import annotations

import torch
from attrs import define, field
from torch import Tensor

from toolkit.interfaces import KVPolicy
from toolkit.runtime.attention import visibility
from toolkit.runtime.cache import TreeCache
from toolkit.runtime.models import LoadedModel
from toolkit.tree import ancestors

CHUNK = 512  # prompt tokens per forward; chunks start at 0, so a prompt is always cut alike


@define(eq=False)
class ModelSession:
    """Implements `interfaces.Session` for a loaded model under a KV policy."""

    model: LoadedModel
    policy: KVPolicy
    cache: TreeCache = field(init=False)
    _parents: Tensor = field(init=False, factory=lambda: torch.zeros(0, dtype=torch.long))

    def __attrs_post_init__(self) -> None:
        self.cache = TreeCache(self.model.layers)

    @property
    def length(self) -> int:
        return self.cache.length

    @property
    def scratch(self) -> int:
        return self.cache.scratch

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    @property
    def positions(self) -> int:
        return self.model.positions

    def prefill(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(0)
        for chunk in tokens.split(CHUNK):
            rows = torch.arange(chunk.shape[0])
            logits = self._forward(chunk, rows - 1, keep=1)
            self.commit(rows)
        return logits[-1]

    def forward(self, tokens: Tensor, parents: Tensor) -> Tensor:
        return self._forward(tokens, parents)

    @torch.no_grad()
    def _forward(self, tokens: Tensor, parents: Tensor, keep: int = 0) -> Tensor:
        count, device = tokens.shape[0], self.model.device
        self._parents = torch.cat([self._parents, parents.cpu()])
        lineage = ancestors(self._parents)
        positions = self.length + depths(lineage)
        self.cache.extend(count)
        now = visibility(
            self.policy,
            positions[-count:].to(device),
            torch.cat([torch.arange(self.length), positions]).to(device),
            lineage[-count:].to(device),
        )
        return self.model.executor.forward(tokens.to(device), now, self.cache, keep)

    def commit(self, rows: Tensor) -> None:
        self.cache.commit(rows.cpu())
        self._parents = self._parents[:0]


def depths(lineage: Tensor) -> Tensor:
    """Depth of each scratch row [S]: its ancestors' number, wherever the row stands."""
    return lineage.sum(1) - 1
