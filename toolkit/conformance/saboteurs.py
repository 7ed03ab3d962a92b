"""Negative controls: bugs that others shipped, each to be caught by a named property.

A saboteur of the runtime or the engine is a context manager that breaks it while it is open; a
sabotaged strategy is a class to use in place of an honest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import attrs
import torch
from torch import Tensor

from toolkit import engine
from toolkit.interfaces import (
    Drafter,
    Expand,
    Runtime,
    Session,
    TreeShaper,
    Verifier,
)
from toolkit.runtime import session as sessions
from toolkit.runtime.attention import Pass
from toolkit.runtime.cache import TreeCache
from toolkit.tree import Candidates, TokenTree, Verdict

Saboteur = Callable[[], "Iterator[None]"]


@contextmanager
def position_by_index() -> Iterator[None]:
    """A node's position is its index in the tree, not its depth (DynaTree's published code)."""
    with patch.object(sessions, "depths", lambda lineage: torch.arange(len(lineage))):
        yield


@contextmanager
def sibling_visible() -> Iterator[None]:
    """The mask is causal over the rows: a node sees the siblings before it."""

    def causal(cache: TreeCache, positions: Tensor, lineage: Tensor, **rest: Any) -> Pass:
        rows, scratch = lineage.shape
        earlier = torch.ones(scratch, scratch).tril().bool()[scratch - rows :]
        return Pass(cache, positions, earlier if scratch else lineage, **rest)

    with patch.object(sessions, "Pass", causal):
        yield


@contextmanager
def wrong_row_kept() -> Iterator[None]:
    """Compaction keeps the first rows of the tree, whichever were accepted."""
    honest = TreeCache.commit

    def commit(self: TreeCache, rows: Tensor) -> None:
        honest(self, torch.arange(len(rows)))

    with patch.object(TreeCache, "commit", commit):
        yield


@contextmanager
def past_the_end() -> Iterator[None]:
    """An accepted path is emitted whole, past a stop id and past `max_new_tokens`."""

    def settle(
        judged: Verdict, tree: TokenTree, room: int, stop_ids: frozenset[int]
    ) -> tuple[Verdict, list[int]]:
        path = judged.path.cpu()
        tokens = [*tree.tokens[path[1:]].tolist(), int(judged.bonus)]
        return Verdict(path, torch.tensor(tokens[-1])), tokens

    honest = engine.Draft.tree

    def deep(self: engine.Draft, shaper: TreeShaper, root: Tensor, depth: int) -> TokenTree:
        return honest(self, shaper, root, 1000)

    with patch.object(engine, "settle", settle), patch.object(engine.Draft, "tree", deep):
        yield


@attrs.define
class OneTooMany(Verifier):
    """Accepts the first child of the last right node, whatever the target says."""

    name = "one-too-many"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice = logits.argmax(-1)
        right = tree.tokens == choice[tree.parents]
        right[0] = True
        lineage = tree.ancestors()
        last = torch.where(~(lineage & ~right).any(1), tree.depths, -1).argmax()
        children = (tree.parents == last).nonzero().flatten()
        last = children[0] if len(children) else last
        return Verdict(lineage[last].nonzero().flatten(), choice[last])


@attrs.define
class OverBudget(TreeShaper):
    """Declares three nodes and grows as many as it likes."""

    name = "over-budget"

    @property
    def nodes(self) -> int:
        return 3

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        frontier = torch.zeros(1, dtype=torch.long)
        return root.grow(frontier, expand(root, frontier, 8))


@attrs.define(eq=False)
class SharedBranch(Drafter):
    """Siblings share one cache: each is forwarded after the one before it."""

    name = "shared-branch"
    id: str = attrs.field(default="", metadata={"help": "model", "model": True})
    _session: Session = attrs.field(init=False)

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        self._session = runtime.session(self.id)
        self._session.prefill(prompt)

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        rows = torch.arange(self._session.scratch, self._session.scratch + len(frontier))
        logits = self._session.forward(tree.tokens[frontier], rows - 1)
        logprobs, tokens = logits.log_softmax(-1).topk(k)
        return Candidates(tokens, logprobs)

    def commit(self, tokens: Tensor) -> None:
        self._session.commit(torch.zeros(0, dtype=torch.long))
        self._session.prefill(tokens)


@attrs.define(eq=False)
class RemembersRejected(Drafter):
    """Proposes what it drafted last, accepted or not: its state is not the committed text alone."""

    name = "remembers-rejected"
    _last: int = attrs.field(init=False, default=1)

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        self._last = (self._last + int(tree.tokens[frontier].sum())) % 89
        tokens = torch.full((len(frontier), 1), self._last)
        return Candidates(tokens, torch.zeros(len(frontier), 1))

    def commit(self, tokens: Tensor) -> None:
        pass


_seen: list[int] = []


@attrs.define
class KeepsState(TreeShaper):
    """Grows deeper with every request: state in the module outlives the request."""

    name = "keeps-state"

    @property
    def nodes(self) -> int:
        return 64

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        _seen.append(1)
        tree = root
        for tip in range(min(1 + len(_seen) // 2, 60)):
            frontier = torch.tensor([tip])
            grown = tree.grow(frontier, expand(tree, frontier, 1))
            if len(grown) == len(tree):
                break
            tree = grown
        return tree
