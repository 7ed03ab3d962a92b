"""Context managers that put a bug into the runtime or the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from attrs import evolve
from torch import Tensor

from toolkit import engine
from toolkit.choice import Choice
from toolkit.interfaces import TreeShaper
from toolkit.runtime import session as sessions
from toolkit.runtime.compute.attention import HostRows, Pass
from toolkit.runtime.kv.cache import TreeCache, TreeLayer
from toolkit.runtime.kv.eviction import Eviction
from toolkit.runtime.session import ModelSession
from toolkit.tree import TokenTree, Verdict, pad_rows


@contextmanager
def position_by_index() -> Iterator[None]:
    """A node's position is its index in the tree, not its depth (DynaTree's published code)."""
    original = ModelSession._run

    def run(
        self: ModelSession, tokens: list[int], paths: list[bytes], positions: list[int], keep: int
    ) -> Tensor:
        by_index = [self.length + index for index in range(len(positions))]
        return original(self, tokens, paths, by_index, keep)

    with patch.object(ModelSession, "_run", run):
        yield


@contextmanager
def sibling_visible() -> Iterator[None]:
    """The mask is causal over the rows, so a node sees the siblings before it."""

    def causal(eviction: Eviction, host: HostRows, **rest: Any) -> Pass:
        rows, scratch = len(host.paths), len(host.paths[0])
        earlier = pad_rows([b"\1" * (row + 1) for row in range(scratch)], scratch - rows)
        seen = evolve(host, paths=earlier) if scratch else host
        return Pass(eviction, seen, **rest)

    with patch.object(sessions, "Pass", causal):
        yield


@contextmanager
def wrong_row_kept() -> Iterator[None]:
    """A commit keeps the first rows of the tree, accepted or not."""
    original = TreeCache.commit

    def commit(self: TreeCache, rows: list[int]) -> None:
        original(self, list(range(len(rows))))

    with patch.object(TreeCache, "commit", commit):
        yield


@contextmanager
def past_the_end() -> Iterator[None]:
    """The whole accepted path is emitted, past a stop id and past `max_new_tokens`."""

    def cut_verdict(
        judged: Verdict, tree: TokenTree, room: int, ends: Callable[[int], bool]
    ) -> tuple[Verdict, list[int], bool]:
        tokens = [*(tree.tokens[node] for node in judged.path[1:]), judged.bonus]
        return judged, tokens, any(ends(token) for token in tokens)

    original = engine.TimedDrafter.tree

    def deep(self: engine.TimedDrafter, shaper: TreeShaper, root: int, depth: int) -> TokenTree:
        return original(self, shaper, root, 1000)

    with (
        patch.object(engine, "cut_verdict", cut_verdict),
        patch.object(engine.TimedDrafter, "tree", deep),
    ):
        yield


@contextmanager
def rejected_rows_kept() -> Iterator[None]:
    """A commit keeps every row of the tree, so rejected rows stay in the cache."""
    original = TreeCache.commit

    def commit(self: TreeCache, rows: list[int]) -> None:
        original(self, list(range(self.scratch)))

    with patch.object(TreeCache, "commit", commit):
        yield


@contextmanager
def rotating_rollback() -> Iterator[None]:
    """A sliding layer is a ring buffer: rows that a rejected branch overwrote are lost."""
    original = ModelSession.commit

    def commit(self: ModelSession, rows: list[int]) -> None:
        end = self.length + self.scratch
        original(self, rows)
        for layer in self.cache.initialized:
            if layer.window is not None:
                held = layer.table.positions[0]
                lost = (held >= self.length - layer.window) & (held < end - layer.window)
                layer.keys[:, :, : len(held)][:, :, lost] = 0.0

    with patch.object(ModelSession, "commit", commit):
        yield


@contextmanager
def coarse_tree_pass() -> Iterator[None]:
    """Trees are verified with keys and values in bf16, but AR runs in full precision."""
    original = TreeLayer.update

    def update(self: TreeLayer, key: Tensor, value: Tensor, *args: Any, **rest: Any) -> Any:
        if self.owner.length and key.shape[2] > 1:
            key, value = key.bfloat16().to(key.dtype), value.bfloat16().to(value.dtype)
        return original(self, key, value, *args, **rest)

    with patch.object(TreeLayer, "update", update):
        yield


@contextmanager
def strategies_kept() -> Iterator[None]:
    """The next request gets the strategy objects of the first."""
    with patch.object(Choice, "build", lru_cache(Choice.build)):
        yield
