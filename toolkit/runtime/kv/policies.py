"""What applies a policy to a cache, and the policy that hides nothing."""

from __future__ import annotations

from torch import Tensor

from toolkit.interfaces import KVPolicy, MaskPolicy, ScorePolicy
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.eviction import Clock, Eviction, MaskEviction, ReindexingEviction
from toolkit.runtime.kv.rotary import Rotary
from toolkit.runtime.kv.score_eviction import ScoreEviction


def eviction_of(policy: KVPolicy, cache: TreeCache, rotary: Rotary) -> Eviction:
    """What applies a policy to a cache. Raises `TypeError` for a policy of neither kind."""
    clock = Clock(policy.epoch)
    if isinstance(policy, ScorePolicy):
        return ScoreEviction(cache, clock, policy, rotary)
    if not isinstance(policy, MaskPolicy):
        raise TypeError(f"{policy!r} is neither a MaskPolicy nor a ScorePolicy")
    if policy.reindexes:
        return ReindexingEviction(cache, clock, policy, rotary=rotary)
    return MaskEviction(cache, clock, policy)


class AllVisible(MaskPolicy):
    """Hides nothing: the model as it is."""

    name = "all-visible"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (query_pos >= 0) & (key_pos >= 0)
