"""DraftSession: a drafter's session that is asked by tree nodes instead of scratch rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from toolkit.interfaces import Session
from toolkit.transfer import send
from toolkit.tree import TokenTree

if TYPE_CHECKING:
    from torch import Tensor


@define(eq=False)
class DraftSession:
    """One model that drafts along the trees of one request.

    It records which scratch row holds which tree node, so no token is forwarded twice: rows of accepted
    tokens are kept, and a committed token that was not drafted is forwarded with the next root. The
    session may be a model's own or one that shares the target's K/V. Make it with `start`.
    """

    session: Session
    vocabulary: int  # ids that both models know; the embedding of either may be padded
    _pending: list[int]  # committed tokens whose KV is not cached yet
    _rows: dict[int, int] = field(init=False, factory=dict)  # tree node → scratch row
    _logits: list[Tensor] = field(init=False, factory=list)  # [·, V]: the root's, then later rows'
    _drafted: dict[tuple[int, int], int] = field(init=False, factory=dict)
    """(parent's row, token) → row: `commit` finds the accepted rows with it."""

    @classmethod
    def start(cls, session: Session, prompt: list[int], vocabulary: int) -> DraftSession:
        """Forward what `session` has not cached of `prompt[P]`; `vocabulary` is the target's V."""
        draft = cls(session, min(session.vocabulary, vocabulary), prompt[session.length :])
        if draft._pending and len(prompt) < session.positions:
            session.prefill(draft._clamp(draft._pending))
            draft._pending = []
        return draft

    def logits_after(self, tree: TokenTree, nodes: list[int]) -> Tensor | None:
        """Logits [F, V] after `nodes[F]` (ascending ids), whose parents were asked about before or are
        among them; V is at most the target's. None when a node is beyond the model's positions."""
        deepest = max(tree.depths[node] for node in nodes)
        if self.root_position + deepest >= self.session.positions:
            return None
        wanted = nodes if self._rows else dict.fromkeys([0, *nodes])  # a step begins with the root
        if new := [node for node in wanted if node not in self._rows]:
            self._forward(tree, new)
        rows = [self._rows[node] for node in nodes]
        logits, end = self._logits[-1], self.session.scratch
        if rows != list(range(end - len(logits), end)):  # not exactly the rows forwarded last
            import torch

            wanted_rows = torch.tensor([row - self._rows[0] for row in rows], dtype=torch.long)
            logits = torch.cat(self._logits).index_select(0, *send(logits.device, wanted_rows))
        return logits if logits.shape[1] == self.vocabulary else logits[:, : self.vocabulary]

    @property
    def root_position(self) -> int:
        """The position of the next tree's root: the number of committed tokens."""
        return self.session.length + len(self._pending)

    @property
    def pending(self) -> int:
        """How many committed tokens the session has not cached yet."""
        return len(self._pending)

    def note_forwarded(self, tree: TokenTree, count: int) -> None:
        """Note that the first `count` nodes of a tree are scratch rows by now, in their order after the
        pending tokens."""
        first = len(self._pending)
        self._rows = {node: first + node for node in range(count)}
        for node in range(1, count):
            self._drafted[first + tree.parents[node], tree.tokens[node]] = first + node

    def commit(self, tokens: list[int]) -> None:
        """Commit `tokens[A]`, as `Drafter.commit` is told of them, and drop all other rows."""
        self._pending = self._pending + tokens
        before = self.session.length
        self.session.commit(self._find_accepted() if self._rows else [])
        self._pending = self._pending[self.session.length - before :]
        self._rows, self._logits, self._drafted = {}, [], {}

    def _find_accepted(self) -> list[int]:
        """The scratch rows of as many pending tokens as were forwarded, from the first on."""
        path = list(range(self._rows[0] + 1))  # the chain that ends at the root
        for token in self._pending[len(path) :]:
            row = self._drafted.get((path[-1], token))
            if row is None:
                break
            path.append(row)
        return path

    def _forward(self, tree: TokenTree, nodes: list[int]) -> None:
        """Forward nodes as rows below their parents' rows, and the root after the pending tokens."""
        pending = [] if self._rows else self._pending
        first = self.session.scratch + len(pending)
        rows = range(first, first + len(nodes))
        self._rows.update(zip(nodes, rows, strict=True))  # a parent may be among the nodes
        tokens = [tree.tokens[node] for node in nodes]
        above = [self._rows[tree.parents[node]] if node else first - 1 for node in nodes]
        chain = list(range(-1, len(pending) - 1))
        logits = self.session.forward(self._clamp([*pending, *tokens]), [*chain, *above])
        self._logits.append(logits[len(pending) :])
        self._drafted.update(zip(zip(above, tokens, strict=True), rows, strict=True))

    def _clamp(self, tokens: list[int]) -> list[int]:
        """Tokens, with ids that this model does not know replaced by its last one. The drafts that
        follow are poor; the output stays exact."""
        last = self.session.vocabulary - 1
        return [min(token, last) for token in tokens]
