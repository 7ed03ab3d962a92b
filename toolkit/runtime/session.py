"""Session: one model decoding one request. Weights are shared, the cache is its own."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from attrs import define, field
from torch import Tensor

from toolkit.interfaces import KVPolicy
from toolkit.runtime.compute.attention import Pass
from toolkit.runtime.compute.cudnn import without_cudnn
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.eviction import Evictor
from toolkit.runtime.models.load import LoadedModel
from toolkit.runtime.models.supported import positions_under
from toolkit.tree import lineage, table

CHUNK = 512  # prompt tokens per forward; chunks start at 0, so a prompt is always cut alike


@define(eq=False)
class ModelSession:
    """Implements `interfaces.Session` for a loaded model under a KV policy."""

    model: LoadedModel
    policy: KVPolicy
    cache: TreeCache = field(init=False)
    evictor: Evictor = field(init=False)
    _lineage: list[bytes] = field(init=False, factory=list)  # of the scratch rows

    def __attrs_post_init__(self) -> None:
        self.cache = TreeCache(self.model.layers, self.policy, self.model.windows)
        self.evictor = Evictor(self.cache, self.policy, self.model.rotary)

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
        return positions_under(self.policy, self.model.positions)

    @property
    def reach(self) -> int:
        return self.evictor.reach

    def prefill(self, tokens: list[int]) -> Tensor:
        if self.length == 0:
            logits = self._prompt(tokens)
            self.evictor.start()
            return logits
        logits = torch.zeros(0)
        while tokens:
            count = self.reach + 1
            logits, tokens = self._append(tokens[:count]), tokens[count:]
            self.evictor.cross()
        return logits[-1]

    def _prompt(self, tokens: list[int]) -> Tensor:
        """A prompt that is scored attends to itself in full: layer by layer, in one forward."""
        if self.policy.chooses():
            self.cache.prompting = True
            logits = self._append(tokens)
            self.cache.prompting = False
            return logits[-1]
        logits = torch.zeros(0)
        count = min(CHUNK, self.policy.epoch) if self.policy.reindexes else CHUNK
        for first in range(0, len(tokens), count):
            logits = self._append(tokens[first : first + count])
            self.evictor.forget(self.length)
        return logits[-1]

    def _append(self, tokens: list[int]) -> Tensor:
        """Forward and commit a chain; returns the last logits [1, V]."""
        rows = list(range(len(tokens)))
        logits = self._forward(tokens, [row - 1 for row in rows], keep=1)
        self.cache.commit(rows)
        return logits

    def forward(self, tokens: list[int], parents: list[int]) -> Tensor:
        return self._forward(tokens, parents)

    def _forward(self, tokens: list[int], parents: list[int], keep: int = 0) -> Tensor:
        count, device = len(tokens), self.model.device
        above = self._lineage if self.cache.scratch else []
        self.cache.extend(count)
        if self.cache.prompting:
            paths, positions = torch.ones(count, 0, dtype=torch.bool), list(range(count))
        else:
            self._lineage = lineage(parents, above)
            paths = table(self._lineage, len(above))
            positions = [self.length + depth for depth in depths(self._lineage)]
        now = Pass(
            self.cache,
            torch.tensor(positions, device=device),
            paths.to(device),
            deepest=max(positions),
            evictor=self.evictor,
        )
        with nullcontext() if device.type == "cpu" else without_cudnn:
            return self.model.executor.forward(torch.tensor(tokens, device=device), now, keep)

    def commit(self, rows: list[int]) -> None:
        self.cache.commit(rows)
        self.evictor.cross()


def depths(lineage: list[bytes]) -> list[int]:
    """Depth of each scratch row [S]: its ancestors' number, wherever the row stands."""
    return [row.count(1) - 1 for row in lineage]
