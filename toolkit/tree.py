"""Frozen data between the stages of a step: Candidates → TokenTree → Verdict.

Shapes: N nodes (root included), F frontier nodes, K candidates per node, A accepted path (root
included), V vocabulary. What is counted in nodes is a list on the host, because lists are ten times
faster than tensors for the few nodes of a level. Lists are not changed after they are handed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen
from attrs.validators import instance_of

from toolkit.likeliest import likeliest
from toolkit.sampling import invert
from toolkit.transfer import fetch

if TYPE_CHECKING:
    from torch import Tensor


@frozen(eq=False)
class Candidates:
    """What a drafter proposes after each frontier node, likeliest first.

    `tokens[F][K]` ids; `logprobs[F][K]` natural log of the drafter's conditional probability, at
    most 0. K may be smaller than asked, differ from row to row, and be 0. A candidate of
    log-probability −inf is never grown. Raises `TypeError` for tensors: `tolist()` them.

    Candidates that were drawn come in the order of the draws, and with the `laws` that they were drawn
    from: float64 [F, V]. The first `fixed` of each row are not drawn but chosen deterministically, and
    the others were drawn from the law without them. Without `laws` all were chosen deterministically.
    """

    tokens: list[list[int]] = field(validator=instance_of(list))
    logprobs: list[list[float]] = field(validator=instance_of(list))
    laws: Tensor | None = None
    fixed: int = 0

    @classmethod
    def none(cls, count: int) -> Candidates:
        """No candidates after any of `count` frontier nodes (K = 0)."""
        return cls([[]] * count, [[]] * count)

    @classmethod
    def top(cls, logits: Tensor, k: int) -> Candidates:
        """The `k` likeliest tokens after each of F frontier nodes, by `logits[F, V]` (K ≤ V)."""
        return cls(*likeliest(logits, min(k, logits.shape[1])))

    @classmethod
    def draw(cls, laws: Tensor, uniforms: Tensor, fixed: int = 0) -> Candidates:
        """Up to K tokens after each of F frontier nodes: the `fixed` likeliest by `laws[F, V]`, then
        tokens drawn without replacement from the law without those.

        `uniforms[F, K, K]` are random numbers in (0, 1], K for each of K rounds. A round draws with
        replacement from what is left of the law and keeps new tokens in order of appearance. Each new
        token is a draw from the law without the earlier ones, and every round has at least one.
        """
        rows, k = [dict[int, float]() for _ in laws], uniforms.shape[1]

        def keep(tokens: Tensor) -> Tensor:
            drawn, shares = fetch(tokens, laws.gather(1, tokens))
            for row, *new in zip(rows, drawn.tolist(), shares.tolist(), strict=True):
                for token, share in zip(*new, strict=True):
                    if share and len(row) < k:
                        row.setdefault(token, share)
            return tokens

        left, known = laws, keep(laws.topk(min(fixed, laws.shape[1])).indices) if fixed else None
        for each in uniforms.unbind(1):
            if all(len(row) == k for row in rows):
                break
            left = left if known is None else left.scatter(1, known, 0.0)
            known = keep(invert(left, each))
        logprobs = [[log(share) for share in row.values()] for row in rows]
        return cls([[*row] for row in rows], logprobs, laws, fixed)

    def first(self, counts: Sequence[int]) -> Candidates:
        """The first candidates of each row, as many as `counts[F]` says."""
        return evolve(
            self,
            tokens=[row[:n] for row, n in zip(self.tokens, counts, strict=True)],
            logprobs=[row[:n] for row, n in zip(self.logprobs, counts, strict=True)],
        )


@frozen(eq=False)
class TokenTree:
    """A tree of drafted tokens; node 0 is the root, the last committed token.

    `tokens[N]`, `parents[N]` (−1 at the root, a parent before its children), `depths[N]` (0 at the
    root); `logprobs[N]` the drafter's conditional log-probabilities (0 at the root) and
    `path_logprobs[N]` their sums from the root. A node's position is L + depth, never its index.
    `laws`: for each node whose children were drawn, the law [V] that they were drawn from, in the order
    of their ids. The children of other nodes were chosen deterministically, and so were, among drawn
    siblings, the nodes `fixed`.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    logprobs: list[float]
    path_logprobs: list[float]
    laws: dict[int, Tensor] = field(factory=dict)
    fixed: frozenset[int] = frozenset()

    @classmethod
    def root(cls, token: int) -> TokenTree:
        """The tree of one node."""
        return cls([token], [-1], [0], [0.0], [0.0])

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def depth(self) -> int:
        """The deepest node's depth; 0 for the root alone."""
        return max(self.depths)

    def children(self) -> list[list[int]]:
        """The children of each node, in ascending order, which is the order of the draws if they were
        drawn."""
        found: list[list[int]] = [[] for _ in self.tokens]
        for node, parent in enumerate(self.parents[1:], 1):
            found[parent].append(node)
        return found

    def path_tokens(self, node: int) -> list[int]:
        """The tokens from the root down to a node, both included."""
        tokens = []
        while node >= 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def grow(self, frontier: Sequence[int], candidates: Candidates) -> TokenTree:
        """Append candidates as children of `frontier[F]`; ids of existing nodes do not change.

        A candidate of log-probability −inf never becomes a node, and none counts as likelier than
        certain. New nodes are in frontier order, then candidate order. Raises `ValueError` when
        there is not one row of candidates for each frontier node.
        """
        tokens, parents, depths = list(self.tokens), list(self.parents), list(self.depths)
        logprobs, paths, laws = list(self.logprobs), list(self.path_logprobs), self.laws
        chosen = set(self.fixed)
        if candidates.laws is not None:
            laws = laws | dict(zip(frontier, candidates.laws, strict=True))
        for parent, *row in zip(frontier, candidates.tokens, candidates.logprobs, strict=True):
            for order, (token, logprob) in enumerate(zip(*row, strict=True)):
                if logprob > -inf:
                    if order < candidates.fixed:
                        chosen.add(len(tokens))
                    tokens.append(token)
                    parents.append(parent)
                    depths.append(depths[parent] + 1)
                    logprobs.append(min(logprob, 0.0))
                    paths.append(paths[parent] + logprobs[-1])
        return TokenTree(tokens, parents, depths, logprobs, paths, laws, frozenset(chosen))

    def best(self, nodes: int) -> TokenTree:
        """The subtree of the `nodes` likeliest nodes by path log-probability, root included.

        Closed under parents, because a child is never likelier than its parent and comes later.
        """
        order = sorted(range(len(self)), key=self.path_logprobs.__getitem__, reverse=True)
        return _only(self, sorted(order[:nodes]))

    def is_valid(self) -> bool:
        """Whether there is one root, parents come before children, and depths follow from parents."""
        parents, depths = self.parents, self.depths
        above = parents[1:]
        ordered = parents[:1] == [-1] and all(0 <= p < i for i, p in enumerate(above, 1))
        return ordered and depths[1:] == [depths[p] + 1 for p in above]

    def first(self, nodes: int) -> TokenTree:
        """The `nodes` nodes that came first; the tree itself when it has no more."""
        return self if len(self) <= nodes else _only(self, range(nodes))

    def within(self, depth: int) -> TokenTree:
        """The subtree of nodes at most `depth` deep; the tree itself when none is deeper."""
        if self.depth <= depth:
            return self
        return _only(self, [node for node, below in enumerate(self.depths) if below <= depth])

    def subtree(self, kept: Sequence[int]) -> TokenTree:
        """The nodes `kept[M]` (ascending ids, root first, closed under parents), renumbered."""
        return _only(self, kept)

    def ancestors(self) -> Tensor:
        """Bool [N, N]: [i, j] is true when j is i or an ancestor of i."""
        return ancestor_mask(lineage(self.parents))


def _only(tree: TokenTree, kept: Sequence[int]) -> TokenTree:
    renumbered = {old: new for new, old in enumerate(kept)}
    return TokenTree(
        [tree.tokens[node] for node in kept],
        [renumbered.get(tree.parents[node], -1) for node in kept],
        [tree.depths[node] for node in kept],
        [tree.logprobs[node] for node in kept],
        [tree.path_logprobs[node] for node in kept],
        {renumbered[node]: law for node, law in tree.laws.items() if node in renumbered},
        frozenset(renumbered[node] for node in tree.fixed if node in renumbered),
    )


@frozen(eq=False)
class Verdict:
    """What the target accepts: `path[A]` node ids from the root (included) down, and one more token.

    `bonus` is the target's own next token after the path's last node. `coins`, of a verifier that
    accepts by chance: for each node that it tested, the probability of acceptance, a number or a scalar
    on the device. They are recorded, and change nothing. Raises `TypeError` for tensors.
    """

    path: list[int] = field(validator=instance_of(list))
    bonus: int = field(validator=instance_of(int))
    coins: Mapping[int, float | Tensor] = field(factory=dict)


def lineage(parents: list[int], known: Sequence[bytes] = ()) -> list[bytes]:
    """Extend the rows of `known` nodes by one row for each of `parents` (−1: none).

    Row i has i + 1 bytes: 1 for i and its ancestors, 0 for others. Their sum is i's depth + 1.
    """
    rows = list(known)
    for node, parent in enumerate(parents, len(rows)):
        above = rows[parent] if parent >= 0 else b""
        rows.append(above.ljust(node, b"\0") + b"\1")
    return rows


def ancestor_mask(rows: list[bytes], first: int = 0) -> Tensor:
    """The rows of `lineage` from `first` on, as bool [N − first, N]."""
    import torch

    padded = pad_rows(rows, first)
    return torch.frombuffer(bytearray().join(padded), dtype=torch.bool).view(-1, len(rows))


def pad_rows(rows: list[bytes], first: int = 0) -> list[bytes]:
    """The N rows of `lineage` from `first` on, each of N bytes."""
    return [row.ljust(len(rows), b"\0") for row in rows[first:]]
