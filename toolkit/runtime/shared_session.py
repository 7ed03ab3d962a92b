"""The target under a smaller KV policy, as a drafter: shared weights, the target's own K/V.

TriForce (Sun et al. 2024) and MagicDec (Chen et al. 2024) draft so: what was verified is taken over
from the target's cache, and nothing that was drafted is ever kept.
"""

from __future__ import annotations

import torch
from attrs import define, field
from torch import Tensor

from toolkit.runtime.kv.cache import TreeLayer
from toolkit.runtime.session import ModelSession


@define(eq=False)
class SharedSession(ModelSession):
    """Drafts in scratch rows; `commit` drops them and copies the rows that the target committed.

    The policy must not read queries: the target logs none for it.
    """

    target: ModelSession = field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._start()

    @torch.inference_mode(False)  # a cache outlives a caller's inference mode
    @torch.no_grad()
    def _start(self) -> None:
        """Copy the target's committed rows that this policy keeps."""
        self.cache.length = self.target.length
        for mine, theirs in zip(self.cache.layers, self.target.cache.layers, strict=True):
            if theirs.is_initialized:
                self._take_over(mine, theirs)
        self.cache.changed()
        self.eviction.start()

    def _take_over(self, mine: TreeLayer, theirs: TreeLayer) -> None:
        """Copy the rows of one of the target's layers that this policy keeps, and no others."""
        held = theirs.table.count
        keys, values = theirs.keys[:, :, :held], theirs.values[:, :, :held]
        mine.by_head = mine.scored or theirs.by_head
        mine.attention = theirs.attention
        mine.lazy_initialization(keys, values)
        if theirs.sinks is not None:  # they have moved: take them as they were written
            keys = torch.cat([theirs.sinks[None], keys[:, :, theirs.sinks.shape[1] :]], 2)
        if mine.place == 0:  # the first of its group, whose table it is
            heads = keys.shape[1] if mine.by_head else 1
            mine.group.table = theirs.table.copy(theirs.heads, heads)
        no_queries = keys[0, :, :0]
        self.eviction.store(mine, self.target.length, no_queries, keys, values)

    def _follow(self, count: int) -> None:
        """Commit copies of the last `count` rows that the target has committed."""
        for mine, theirs in zip(self.cache.layers, self.target.cache.layers, strict=True):
            if theirs.is_initialized:
                rows = slice(theirs.table.count - count, theirs.table.count)
                mine.store(theirs.keys[:, :, rows], theirs.values[:, :, rows])
        self.cache.append(count)

    def prefill(self, tokens: list[int]) -> Tensor:
        raise NotImplementedError(
            "a shared session holds what its target holds: commit on the target"
        )

    def _commit(self, rows: list[int]) -> None:
        self.cache.commit([])
        self._follow(self.target.length - self.length)
        self.eviction.after_commit()
