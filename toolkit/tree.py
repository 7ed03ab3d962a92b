"""Frozen data between the stages of a step: Candidates → TokenTree → Verdict.

Shapes: N nodes (root included), F frontier nodes, K candidates per node, A accepted path (root
included), V vocabulary. Trees live on the host, where shapers decide; a session takes what it needs
to its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor


@frozen(eq=False)
class Candidates:
    """What a drafter proposes after each frontier node, likeliest first.

    `tokens[F, K]` int64; `logprobs[F, K]` float, natural log of the drafter's conditional
    probability, at most 0. K may be smaller than asked, and 0. A slot without a proposal has
    log-probability −inf and is never grown.
    """

    tokens: Tensor
    logprobs: Tensor

    @classmethod
    def none(cls, count: int, device: torch.device | None = None) -> Candidates:
        """No candidates after any of `count` frontier nodes (K = 0)."""
        return cls(
            torch.zeros((count, 0), dtype=torch.long, device=device),
            torch.zeros((count, 0), device=device),
        )


def _listed(values: Tensor | list[Any]) -> list[Any]:
    return values if isinstance(values, list) else values.tolist()


def _column(name: str, dtype: type) -> cached_property[Tensor]:
    """A list of a tree as a tensor [N] on the host, made when it is first asked for."""
    return cached_property(lambda tree: torch.from_numpy(np.array(getattr(tree, name), dtype)))


@frozen(eq=False, slots=False)
class TokenTree:
    """A tree of drafted tokens; node 0 is the root, the last committed token.

    `tokens[N]`, `parents[N]` (−1 at the root, a parent before its children), `depths[N]` (0 at the
    root) int64; `logprobs[N]` the drafter's conditional log-probabilities (0 at the root) and
    `path_logprobs[N]` their sums from the root. A node's position is L + depth, never its index.
    """

    # Lists: on the few nodes of a level, growing them takes a tenth of the time of tensors.
    _tokens: list[int] = field(converter=_listed)
    _parents: list[int] = field(converter=_listed)
    _depths: list[int] = field(converter=_listed)
    _logprobs: list[float] = field(converter=_listed)
    _path_logprobs: list[float] = field(converter=_listed)

    tokens = _column("_tokens", np.int64)
    parents = _column("_parents", np.int64)
    depths = _column("_depths", np.int64)
    logprobs = _column("_logprobs", np.float64)
    path_logprobs = _column("_path_logprobs", np.float64)

    @classmethod
    def root(cls, token: Tensor) -> TokenTree:
        """The tree of one node; `token` is a scalar or one-element int64 tensor."""
        return cls([int(token)], [-1], [0], [0.0], [0.0])

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def depth(self) -> int:
        """The deepest node's depth; 0 for the root alone."""
        return max(self._depths)

    def grow(
        self, frontier: Tensor, candidates: Candidates, keep: Tensor | None = None
    ) -> TokenTree:
        """Append candidates as children of `frontier[F]`; ids of existing nodes do not change.

        `keep[F, K]` bool selects which candidates become nodes (default: all); a candidate of
        log-probability −inf never does, and none counts as likelier than certain. New nodes are in
        frontier order, then candidate order.
        """
        proposed = candidates.tokens.tolist(), candidates.logprobs.tolist()
        count, width = candidates.tokens.shape
        wanted = [[True] * width] * count if keep is None else keep.tolist()
        grown = [
            (token, parent, logprob if logprob < 0.0 else 0.0)
            for parent, *row in zip(frontier.tolist(), *proposed, wanted, strict=True)
            for token, logprob, kept in zip(*row, strict=True)
            if kept and logprob > -inf
        ]
        if not grown:
            return self
        tokens, parents, logprobs = map(list, zip(*grown, strict=True))
        return TokenTree(
            self._tokens + tokens,
            self._parents + parents,
            self._depths + [self._depths[parent] + 1 for parent in parents],
            self._logprobs + logprobs,
            self._path_logprobs
            + [self._path_logprobs[parent] + logprob for _, parent, logprob in grown],
        )

    def best(self, nodes: int) -> TokenTree:
        """The subtree of the `nodes` likeliest nodes by path log-probability, root included.

        Closed under parents, because a child is never likelier than its parent and comes later.
        """
        order = sorted(range(len(self)), key=self._path_logprobs.__getitem__, reverse=True)
        return _only(self, sorted(order[:nodes]))

    def sound(self) -> bool:
        """Whether this is a tree: one root, parents before children, depths to match."""
        parents, depths = self._parents, self._depths
        above = parents[1:]
        ordered = parents[0] == -1 and all(0 <= p < i for i, p in enumerate(above, 1))
        return ordered and depths[1:] == [depths[p] + 1 for p in above]

    def first(self, nodes: int) -> TokenTree:
        """The `nodes` nodes that came first; the tree itself when it has no more."""
        return self if len(self) <= nodes else _only(self, list(range(nodes)))

    def within(self, depth: int) -> TokenTree:
        """The subtree of nodes at most `depth` deep; the tree itself when none is deeper."""
        if self.depth <= depth:
            return self
        return _only(self, [node for node, below in enumerate(self._depths) if below <= depth])

    def subtree(self, kept: Tensor) -> TokenTree:
        """The nodes `kept[M]` (ascending ids, root first, closed under parents), renumbered."""
        return _only(self, kept.tolist())

    def ancestors(self) -> Tensor:
        """Bool [N, N]: [i, j] is true when j is i or an ancestor of i."""
        return table(lineage(self._parents))


def _only(tree: TokenTree, kept: list[int]) -> TokenTree:
    renumbered = {old: new for new, old in enumerate(kept)}
    return TokenTree(
        [tree._tokens[node] for node in kept],
        [renumbered.get(tree._parents[node], -1) for node in kept],
        [tree._depths[node] for node in kept],
        [tree._logprobs[node] for node in kept],
        [tree._path_logprobs[node] for node in kept],
    )


@frozen(eq=False)
class Verdict:
    """What the target accepts: `path[A]` node ids from the root (included) down, and one token more.

    `bonus` is a scalar int64 tensor: the target's own next token after the path's last node.
    """

    path: Tensor
    bonus: Tensor


def lineage(parents: list[int], known: Sequence[bytes] = ()) -> list[bytes]:
    """The `known` nodes' rows and one more for each of `parents` (−1: none), which may be among them.

    Row i has i + 1 bytes: 1 for i and its ancestors, 0 for others. So it has one more than i's depth.
    """
    rows = list(known)
    for node, parent in enumerate(parents, len(rows)):
        above = rows[parent] if parent >= 0 else b""
        rows.append(above.ljust(node, b"\0") + b"\1")
    return rows


def table(rows: list[bytes], first: int = 0) -> Tensor:
    """The rows of `lineage` from `first` on, as bool [N − first, N]."""
    padded = [row.ljust(len(rows), b"\0") for row in rows[first:]]
    return torch.frombuffer(bytearray().join(padded), dtype=torch.bool).view(-1, len(rows))
