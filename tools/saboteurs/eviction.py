"""Broken eviction: context managers that put a bug into it, and a policy with state across requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import PropertyMock, patch

import attrs
import torch
from torch import Tensor

from toolkit.interfaces import ScorePolicy, option
from toolkit.kv_view import KVView
from toolkit.runtime.kv import selection
from toolkit.runtime.kv.eviction import Clock, Eviction
from toolkit.runtime.kv.positions import PositionTable
from toolkit.runtime.kv.query_log import QueryLog


@contextmanager
def rejected_nodes_score() -> Iterator[None]:
    """The log takes the last drafted queries, whichever tokens were accepted."""
    honest = QueryLog.commit

    def commit(self: QueryLog, rows: list[int]) -> None:
        count = sum(queries.shape[1] for queries in self.scratch[0])
        honest(self, [*range(count - len(rows), count)])

    with patch.object(QueryLog, "commit", commit):
        yield


@contextmanager
def evicts_per_pass() -> Iterator[None]:
    """Every commit is a boundary."""
    honest = Clock.crossed

    def crossed(self: Clock, length: int) -> Iterator[int]:
        self.boundary = length
        yield from honest(self, length)

    with patch.object(Clock, "crossed", crossed):
        yield


@contextmanager
def clock_counts_passes() -> Iterator[None]:
    """A decision every few passes, as in decoding presses that count forwards."""
    honest, passes = Clock.crossed, [0]

    def crossed(self: Clock, length: int) -> Iterator[int]:
        passes[0] += 1
        late = passes[0] % self.epoch
        self.boundary = length + (1 if late else 0)
        yield from honest(self, length)

    with patch.object(Clock, "crossed", crossed):
        yield


@contextmanager
def ties_by_chance() -> Iterator[None]:
    """Equal scores are in random order."""

    def rank(worth: Tensor) -> Tensor:
        shuffle = torch.randperm(worth.shape[1])
        order = worth[:, shuffle].argsort(dim=1, descending=True, stable=True)
        return shuffle[order].argsort(1)

    with patch.object(selection, "rank", rank):
        yield


@contextmanager
def unrounded_scores() -> Iterator[None]:
    """Scores are compared to the last bit, which depends on the shapes of the passes before."""
    with patch.object(selection, "rounded", lambda scores: scores):
        yield


@contextmanager
def budget_off_by_one() -> Iterator[None]:
    """One position more than the capacity is kept."""
    honest = selection.rank
    with patch.object(selection, "rank", lambda worth: honest(worth) - 1):
        yield


@contextmanager
def recent_evicted() -> Iterator[None]:
    """The oldest of the recent positions competes with the others."""

    def protected(policy: ScorePolicy, view: KVView) -> Tensor:
        held = view.positions
        return (held < policy.sinks) | (held > view.now - policy.recent)

    with patch.object(selection, "protected", protected):
        yield


@contextmanager
def lag_ignored() -> Iterator[None]:
    """A decision takes effect at once, so the pass that crosses it does not know it."""
    with patch.object(Clock, "effective", lambda _, now: now):
        yield


@contextmanager
def commits_beyond_the_epoch() -> Iterator[None]:
    """A pass may cross two boundaries, of which only one was decided."""
    with patch.object(Eviction, "max_draft_depth", PropertyMock(return_value=1000)):
        yield


@contextmanager
def empty_rows_visible() -> Iterator[None]:
    """Empty rows of a head are visible."""
    honest = PositionTable.visible

    def visible(self: PositionTable, query: Tensor, deepest: int) -> Tensor:
        return honest(self, query, deepest) | (self.positions < 0)[:, None]

    with patch.object(PositionTable, "visible", visible):
        yield


_requests: list[int] = []


@attrs.define
class RemembersScores(ScorePolicy):
    """Accumulated attention, shifted by the number of requests so far."""

    name = "remembers-scores"
    budget: int = option(6, help="positions kept")
    epoch: int = option(3, help="tokens between decisions")
    _mine: int = attrs.field(init=False, default=0)

    def score(self, view: KVView) -> Tensor:
        if not self._mine:
            _requests.append(1)
            self._mine = len(_requests)
        return (view.carry + view.colsum).roll(self._mine, 1)
