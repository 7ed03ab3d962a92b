"""Session: one model decoding one request. Weights are shared, the cache is its own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from attrs import define, field
from torch import Tensor

from toolkit import likeliest, randomness
from toolkit.interfaces import KVPolicy, ScorePolicy
from toolkit.runtime.compute.attention import HostRows, Pass
from toolkit.runtime.compute.cudnn import without_cudnn
from toolkit.runtime.kernels.cpu_tokens import CpuNoise, top_tokens
from toolkit.runtime.kernels.recorded_top_tokens import RecordedTopTokens
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.eviction import Eviction
from toolkit.runtime.kv.policies import AllVisible, eviction_of
from toolkit.runtime.kv.slab import try_twice
from toolkit.runtime.machine.memory import LESS_FOR_REQUESTS, name_lack_of_memory
from toolkit.runtime.models.load import LoadedModel
from toolkit.runtime.models.supported import positions_under
from toolkit.tree import lineage, pad_rows

likeliest.kernels.update(cpu=top_tokens, cuda=RecordedTopTokens())
randomness.kernels["cpu"] = CpuNoise()


@define(eq=False)
class ModelSession:
    """A session of a loaded model under a KV policy. Implements `interfaces.Session`."""

    model: LoadedModel
    policy: KVPolicy = field(factory=AllVisible)
    cache: TreeCache = field(init=False)
    eviction: Eviction = field(init=False)
    positions: int = field(init=False)
    _lineage: list[bytes] = field(init=False, factory=list)  # of the scratch rows

    def __attrs_post_init__(self) -> None:
        scored = isinstance(self.policy, ScorePolicy)
        slabs = self.model.executor.slabs
        self.cache = TreeCache(self.model.layers, self.model.windows, scored, slabs)
        self.eviction = eviction_of(self.policy, self.cache, self.model.rotary)
        self.positions = positions_under(self.policy, self.model.positions)

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
    def max_draft_depth(self) -> int:
        return self.eviction.max_draft_depth

    def rewind(self, length: int, policy: KVPolicy) -> bool:
        """Go back to the first `length` committed tokens, for a request whose prompt begins with them;
        `prefill` takes the rest of it. `policy` is the new request's.

        False, and nothing changes, when the cache is not what a new session would hold there.
        """
        if not self.eviction.untouched or not self.cache.rewind(length):
            return False
        self.policy, self._lineage = policy, []
        self.eviction = eviction_of(policy, self.cache, self.model.rotary)
        return True

    @torch.inference_mode(False)  # a cache outlives a caller's inference mode
    @torch.no_grad()
    def prefill(self, tokens: list[int]) -> Tensor:
        if self.eviction.clock.started:
            return self._read(tokens)
        logits = self._read_whole(tokens) if self.cache.scored else self._read(tokens)
        with self._name_lack_of_memory(f"to evict from a prompt of {self.length} tokens"):
            self.eviction.start()
        return logits

    def _read(self, tokens: list[int]) -> Tensor:
        """Forward and commit a text in chunks; returns its last token's logits [V]."""
        logits = torch.zeros(0)
        while tokens:
            count = self.eviction.chunk
            rows = list(range(len(tokens[:count])))
            logits = self.forward(tokens[:count], [row - 1 for row in rows], keep=1)
            self.commit(rows)
            tokens = tokens[count:]
        return logits[-1]

    def _read_whole(self, tokens: list[int]) -> Tensor:
        """Forward and commit a prompt that is scored: it attends to itself in full, layer by layer."""
        count = len(tokens)
        no_scratch = [b""] * count
        logits = self._run(tokens, no_scratch, list(range(count)), keep=1)
        self.cache.commit_prompt(count)
        return logits[-1]

    def forward(self, tokens: list[int], parents: list[int], keep: int = 0) -> Tensor:
        above = self._lineage if self.cache.scratch else []
        self.cache.extend(len(tokens))
        self._lineage = lineage(parents, above)
        positions = [self.cache.length + row.count(1) - 1 for row in self._lineage]
        return self._run(tokens, pad_rows(self._lineage, len(above)), positions, keep)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _run(
        self, tokens: list[int], paths: list[bytes], positions: list[int], keep: int
    ) -> Tensor:
        """Run one pass; returns logits [N, V], or those of the last `keep` rows unless that is 0."""
        device = self.model.device
        now = Pass(
            self.eviction,
            HostRows(tokens, positions, paths),
            deepest=max(positions),
            whole_prompt=not self.cache.scratch,
            device=device,
        )
        forward, slabs = partial(self.model.executor.forward, now, keep), self.model.executor.slabs
        task = f"for a pass of {len(tokens)} tokens after {self.length}"
        with (
            self._name_lack_of_memory(task),
            nullcontext() if device.type == "cpu" else without_cudnn,
        ):
            if self.cache.scored or slabs is None:  # a second try would log queries again
                return forward()
            return try_twice(forward, slabs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def commit(self, rows: list[int]) -> None:
        with self._name_lack_of_memory(f"to commit tokens after the first {self.length}"):
            self._commit(rows)

    def _commit(self, rows: list[int]) -> None:
        self.cache.commit(rows)
        self.eviction.after_commit()

    def _name_lack_of_memory(self, task: str) -> AbstractContextManager[None]:
        """Turns a lack of memory in the block into an error that says what to lower."""
        task = f"{task} through model {self.model.name!r}"
        return name_lack_of_memory(self.model.device, task, LESS_FOR_REQUESTS)
