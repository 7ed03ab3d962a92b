"""Frozen data between the stages of a step: Candidates → TokenTree → Verdict.

Shapes: N nodes (root included), F frontier nodes, K candidates per node, A accepted path (root
included), V vocabulary. All tensors of one tree live on one device.
"""

from __future__ import annotations

import torch
from attrs import frozen
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


@frozen(eq=False)
class TokenTree:
    """A tree of drafted tokens; node 0 is the root, the last committed token.

    `tokens[N]`, `parents[N]` (−1 at the root, a parent before its children), `depths[N]` (0 at the
    root) int64; `logprobs[N]` the drafter's conditional log-probabilities (0 at the root) and
    `path_logprobs[N]` their sums from the root. A node's position is L + depth, never its index.
    """

    tokens: Tensor
    parents: Tensor
    depths: Tensor
    logprobs: Tensor
    path_logprobs: Tensor

    @classmethod
    def root(cls, token: Tensor) -> TokenTree:
        """The tree of one node; `token` is a scalar or one-element int64 tensor."""
        zero = torch.zeros(1, dtype=torch.long, device=token.device)
        score = torch.zeros(1, device=token.device)
        return cls(token.reshape(1), zero - 1, zero, score, score)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def depth(self) -> int:
        """The deepest node's depth; 0 for the root alone."""
        return int(self.depths.max())

    def grow(
        self, frontier: Tensor, candidates: Candidates, keep: Tensor | None = None
    ) -> TokenTree:
        """Append candidates as children of `frontier[F]`; ids of existing nodes do not change.

        `keep[F, K]` bool selects which candidates become nodes (default: all); a candidate of
        log-probability −inf never does, and none counts as likelier than certain. New nodes are in
        frontier order, then candidate order.
        """
        if not candidates.tokens.numel():
            return self
        kept = candidates.logprobs > -torch.inf
        if keep is not None:
            kept = kept & keep
        row, column = kept.nonzero(as_tuple=True)
        parents = frontier[row]
        logprobs = candidates.logprobs[row, column].to(self.logprobs.dtype).clamp(max=0.0)
        return TokenTree(
            torch.cat([self.tokens, candidates.tokens[row, column]]),
            torch.cat([self.parents, parents]),
            torch.cat([self.depths, self.depths[parents] + 1]),
            torch.cat([self.logprobs, logprobs]),
            torch.cat([self.path_logprobs, self.path_logprobs[parents] + logprobs]),
        )

    def best(self, nodes: int) -> TokenTree:
        """The subtree of the `nodes` likeliest nodes by path log-probability, root included.

        Closed under parents, because a child is never likelier than its parent and comes later.
        """
        order = self.path_logprobs.sort(descending=True, stable=True).indices[:nodes]
        return self.subtree(order.sort().values)

    def sound(self) -> bool:
        """Whether this is a tree: one root, parents before children, depths to match."""
        parents, depths = self.parents.tolist(), self.depths.tolist()  # quicker than tensors here
        above = parents[1:]
        ordered = parents[0] == -1 and all(0 <= p < i for i, p in enumerate(above, 1))
        return ordered and depths[1:] == [depths[p] + 1 for p in above]

    def first(self, nodes: int) -> TokenTree:
        """The `nodes` nodes that came first; the tree itself when it has no more."""
        if len(self) <= nodes:
            return self
        return self.subtree(torch.arange(nodes, device=self.tokens.device))

    def within(self, depth: int) -> TokenTree:
        """The subtree of nodes at most `depth` deep; the tree itself when none is deeper."""
        if self.depth <= depth:
            return self
        return self.subtree((self.depths <= depth).nonzero().flatten())

    def subtree(self, kept: Tensor) -> TokenTree:
        """The nodes `kept[M]` (ascending ids, root first, closed under parents), renumbered."""
        renumbered = torch.full((len(self) + 1,), -1, dtype=torch.long, device=kept.device)
        renumbered[kept] = torch.arange(len(kept), device=kept.device)
        return TokenTree(
            self.tokens[kept],
            renumbered[self.parents[kept]],
            self.depths[kept],
            self.logprobs[kept],
            self.path_logprobs[kept],
        )

    def ancestors(self) -> Tensor:
        """Bool [N, N]: [i, j] is true when j is i or an ancestor of i."""
        return ancestors(self.parents)


@frozen(eq=False)
class Verdict:
    """What the target accepts: `path[A]` node ids from the root (included) down, and one token more.

    `bonus` is a scalar int64 tensor: the target's own next token after the path's last node.
    """

    path: Tensor
    bonus: Tensor


def ancestors(parents: Tensor) -> Tensor:
    """Ancestor-or-self table [N, N] bool of `parents[N]` (−1: none), by pointer doubling."""
    count = parents.shape[0]
    table = torch.eye(count + 1, dtype=torch.bool, device=parents.device)
    hop = torch.cat([parents, parents.new_full((1,), -1)])  # row −1 stands for "above the root"
    for _ in range((count - 1).bit_length()):
        table = table | table[hop]
        hop = hop[hop]
    return table[:-1, :-1]
