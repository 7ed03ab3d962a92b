"""A small language model drafts for a large one (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Candidates, Drafter, Runtime, Session, TokenTree, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define(eq=False)
class ModelDrafter(Drafter):
    """Draft with any causal LM that has the target's vocabulary: one forward per tree level.

    The drafter's own cache follows the committed tokens: what was drafted and accepted is kept, not
    forwarded again. Siblings are scratch rows of one tree, so none sees another.
    """

    name = "model"
    id: str = option(
        "", help="alias, folder or hub id; the target family's drafter when left out", model=True
    )

    _session: Session = attrs.field(init=False)
    _pending: list[int] = attrs.field(init=False)  # committed tokens whose KV is not held yet
    _known: int = attrs.field(init=False)  # ids that both models know; either may be padded
    _rows: dict[int, int] = attrs.field(init=False, factory=dict)  # tree node → scratch row
    _logits: list[Tensor] = attrs.field(init=False, factory=list)  # [·, V]: the root's, then rows'
    _drafted: dict[tuple[int, int], int] = attrs.field(init=False, factory=dict)
    """(parent's row, token) → row: how `commit` finds what is held."""

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._session = runtime.session(self.id)
        self._known = min(self._session.vocabulary, runtime.vocabulary)
        self._pending = prompt
        if len(prompt) < self._session.positions:
            self._session.prefill(self._own(self._pending))
            self._pending = []

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        if self._beyond(tree, frontier):
            return Candidates.none(len(frontier))
        if not self._rows:  # a step's first frontier is the root
            self._forward_root(tree.tokens[0])
        if new := [node for node in frontier if node not in self._rows]:
            self._forward(tree, new)
        logits = self._after([self._rows[node] for node in frontier])
        logprobs, tokens = logits.float().log_softmax(-1).topk(min(k, self._known))
        return Candidates(tokens.tolist(), logprobs.tolist())

    def _beyond(self, tree: TokenTree, frontier: list[int]) -> bool:
        """Whether a frontier node has no position in this model."""
        root = self._session.length + len(self._pending)  # its position
        if root + len(tree) <= self._session.positions:
            return False
        return root + max(tree.depths[node] for node in frontier) >= self._session.positions

    def commit(self, tokens: list[int]) -> None:
        """Keep the rows that the committed path runs along; what is not held waits."""
        self._pending = self._pending + tokens
        if self._rows:
            path = self._held()
            self._session.commit(path)
            self._pending = self._pending[len(path) :]
            self._rows, self._logits, self._drafted = {}, [], {}

    def _held(self) -> list[int]:
        """The scratch rows of the longest start of what is pending that was forwarded."""
        path = list(range(self._rows[0] + 1))  # the chain that ends at the root
        for token in self._pending[len(path) :]:
            row = self._drafted.get((path[-1], token))
            if row is None:
                break
            path.append(row)
        return path

    def _forward_root(self, root: int) -> None:
        """Forward the root, below what was committed before it and not drafted."""
        chain = [*self._pending, root]
        logits = self._session.forward(self._own(chain), list(range(-1, len(chain) - 1)))
        self._logits, self._rows = [logits[-1:]], {0: len(self._pending)}

    def _forward(self, tree: TokenTree, nodes: list[int]) -> None:
        """One forward over frontier nodes, as scratch rows below their parents' rows."""
        new = [tree.tokens[node] for node in nodes]
        above = [self._rows[tree.parents[node]] for node in nodes]
        rows = range(self._session.scratch, self._session.scratch + len(nodes))
        self._logits.append(self._session.forward(self._own(new), above))
        self._rows.update(zip(nodes, rows, strict=True))
        self._drafted.update(zip(zip(above, new, strict=True), rows, strict=True))

    def _after(self, rows: list[int]) -> Tensor:
        """Logits [F, known] after scratch rows."""
        logits, end = self._logits[-1], self._session.scratch
        if rows != list(range(end - len(logits), end)):  # not just those that were forwarded last
            import torch

            logits = torch.cat(self._logits)[[row - self._rows[0] for row in rows]]
        return logits if logits.shape[1] == self._known else logits[:, : self._known]

    def _own(self, tokens: list[int]) -> list[int]:
        """Ids beyond this model's vocabulary become its last: a poor draft, never wrong output."""
        last = self._session.vocabulary - 1
        return [min(token, last) for token in tokens]
