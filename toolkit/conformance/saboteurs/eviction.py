"""Negative controls of KV policies: ways in which eviction breaks the promise, each to be caught."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import PropertyMock, patch

import attrs
import torch
from torch import Tensor

from toolkit.interfaces import KVPolicy, option
from toolkit.runtime.kv import selection
from toolkit.runtime.kv.cache import TreeLayer
from toolkit.runtime.kv.eviction import Evictor
from toolkit.runtime.kv.positions import Slots
from toolkit.view import KVView


@contextmanager
def rejected_nodes_score() -> Iterator[None]:
    """The log takes the last drafted queries, whichever were accepted."""

    def remember(self: TreeLayer, rows: list[int]) -> None:
        if self.drafted:
            queries = torch.cat(self.drafted, 1)
            last = queries[:, queries.shape[1] - len(rows) :]
            self.log = last if self.log is None else torch.cat([self.log, last], 1)
            self.drafted = []

    with patch.object(TreeLayer, "remember", remember):
        yield


@contextmanager
def evicts_per_pass() -> Iterator[None]:
    """Every commit is a boundary."""
    honest = Evictor.cross

    def cross(self: Evictor) -> None:
        self.boundary = self.cache.length
        honest(self)

    with patch.object(Evictor, "cross", cross):
        yield


@contextmanager
def clock_counts_passes() -> Iterator[None]:
    """A boundary every few passes, as decoding presses that count forwards have it."""
    honest, passes = Evictor.cross, [0]

    def cross(self: Evictor) -> None:
        passes[0] += 1
        late = passes[0] % self.policy.epoch
        self.boundary = self.cache.length + (1 if late else 0)
        honest(self)

    with patch.object(Evictor, "cross", cross):
        yield


@contextmanager
def ties_by_chance() -> Iterator[None]:
    """Equal scores are ordered as the sort pleases."""

    def ranked(worth: Tensor) -> Tensor:
        shuffle = torch.randperm(worth.shape[1])
        order = worth[:, shuffle].argsort(dim=1, descending=True, stable=True)
        return shuffle[order].argsort(1)

    with patch.object(selection, "ranked", ranked):
        yield


@contextmanager
def unrounded_scores() -> Iterator[None]:
    """Scores are compared to the last bit, which depends on the shape of the passes before."""
    with patch.object(selection, "rounded", lambda scores: scores):
        yield


@contextmanager
def budget_off_by_one() -> Iterator[None]:
    """One position more than there is room for is kept."""
    honest = selection.ranked
    with patch.object(selection, "ranked", lambda worth: honest(worth) - 1):
        yield


@contextmanager
def recent_evicted() -> Iterator[None]:
    """The oldest of the recent positions competes with the others."""

    def protected(policy: KVPolicy, view: KVView) -> Tensor:
        held = view.positions
        return (held < policy.sinks) | (held > view.now - policy.recent)

    with patch.object(selection, "protected", protected):
        yield


@contextmanager
def lag_ignored() -> Iterator[None]:
    """A decision is in force as soon as it is taken, after the pass that should have known it."""
    with patch.object(Evictor, "effect", lambda _, now: now):
        yield


@contextmanager
def commits_beyond_the_epoch() -> Iterator[None]:
    """A pass may cross two boundaries, of which only one is decided."""
    with patch.object(Evictor, "reach", PropertyMock(return_value=1000)):
        yield


@contextmanager
def empty_rows_seen() -> Iterator[None]:
    """Rows that a head does not have are attended to."""
    honest = Slots.seen

    def seen(self: Slots, policy: KVPolicy | None, at: Tensor, deepest: int) -> Tensor:
        visible = honest(self, policy, at, deepest)
        if visible.ndim == 3:
            visible = visible | (self.positions < 0)[:, None]
        return visible

    with patch.object(Slots, "seen", seen):
        yield


_requests: list[int] = []


@attrs.define
class RemembersScores(KVPolicy):
    """Accumulated attention, displaced by every request that the process has had."""

    name = "remembers-scores"
    budget: int = option(6, help="positions kept")
    epoch: int = option(3, help="tokens between decisions")
    _mine: int = attrs.field(init=False, default=0)

    def score(self, view: KVView) -> Tensor:
        if not self._mine:
            _requests.append(1)
            self._mine = len(_requests)
        return (view.carry + view.colsum).roll(self._mine, 1)
