"""A small language model drafts for a large one (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

import itertools

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit import Candidates, Drafter, Runtime, Session, TokenTree, option

UNKNOWN = -2  # no scratch row


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

    _runtime: Runtime = attrs.field(init=False)
    _session: Session = attrs.field(init=False)
    _pending: Tensor = attrs.field(init=False)  # committed tokens [T] whose KV is not held yet
    _rows: Tensor = attrs.field(init=False)  # of tree nodes: scratch row, −1 the root, or UNKNOWN
    _logits: list[Tensor] = attrs.field(init=False, factory=list)  # [·, V]: the root's, then rows'
    _drafted: list[tuple[Tensor, Tensor]] = attrs.field(init=False, factory=list)
    """(parents' rows, tokens) of the scratch rows: how `commit` finds what is held."""

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        self._runtime = runtime
        self._session = runtime.session(self.id)
        self._pending = prompt
        if len(prompt) < self._session.positions:
            self._session.prefill(self._own(prompt))
            self._pending = prompt[:0]

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        if self._beyond(tree, frontier):
            return Candidates.none(len(frontier), tree.tokens.device)
        if not self._logits:  # a step's first frontier is the root
            self._forward_root(tree.tokens[:1])
        self._rows = pad(self._rows, (0, len(tree) - len(self._rows)), value=UNKNOWN)
        logits, new = self._logits[-1], frontier[self._rows[frontier] == UNKNOWN]
        if len(new):
            logits = self._forward(tree, new)
        if len(new) < len(frontier):
            logits = torch.cat(self._logits)[self._rows[frontier] + 1]
        logprobs, tokens = logits.float().log_softmax(-1).topk(min(k, logits.shape[1]))
        return Candidates(tokens.to(frontier.device), logprobs.to(frontier.device))

    def _beyond(self, tree: TokenTree, frontier: Tensor) -> bool:
        """Whether a frontier node has no position in this model."""
        root = self._session.length + len(self._pending) - bool(self._logits)  # its position
        if root + len(tree) <= self._session.positions:
            return False
        return root + int(tree.depths[frontier].max()) >= self._session.positions

    def commit(self, tokens: Tensor) -> None:
        """Keep the rows that the committed path runs along; what is not held waits."""
        held = 0
        if self._logits:
            path = self._held(tokens[1:].tolist())
            self._session.commit(torch.tensor(path, dtype=torch.long))
            held = 1 + len(path)
        self._pending = torch.cat([self._pending, tokens[held:]])
        self._logits, self._drafted = [], []

    def _held(self, tokens: list[int]) -> list[int]:
        """The scratch rows of the longest start of a path of tokens that was forwarded."""
        if not self._drafted:
            return []
        parents, drafted = (
            torch.cat(column).tolist() for column in zip(*self._drafted, strict=True)
        )
        known = dict(zip(zip(parents, drafted, strict=True), itertools.count(), strict=False))
        path: list[int] = []
        for token in tokens:
            row = known.get((path[-1] if path else -1, token))
            if row is None:
                break
            path.append(row)
        return path

    def _forward_root(self, root: Tensor) -> None:
        """Cache the root, which is committed, and what was committed before it and not drafted."""
        chain = torch.cat([self._pending, root])
        rows = torch.arange(len(chain))
        logits = self._session.forward(self._own(chain), rows - 1)
        self._session.commit(rows)
        self._logits = [logits[-1:, : self._vocabulary]]
        self._rows, self._pending = rows.new_full((1,), -1), root[:0]

    def _forward(self, tree: TokenTree, nodes: Tensor) -> Tensor:
        """One forward over frontier nodes, as scratch rows below their parents' rows; their logits."""
        first, above, tokens = (
            self._session.scratch,
            self._rows[tree.parents[nodes]],
            tree.tokens[nodes],
        )
        logits = self._session.forward(self._own(tokens), above)[:, : self._vocabulary]
        self._rows[nodes] = torch.arange(first, first + len(nodes))
        self._logits.append(logits)
        self._drafted.append((above, tokens))
        return logits

    @property
    def _vocabulary(self) -> int:
        """Ids that both models know; either may be padded beyond them."""
        return min(self._session.vocabulary, self._runtime.vocabulary)

    def _own(self, tokens: Tensor) -> Tensor:
        """Ids beyond this model's vocabulary become its last: a poor draft, never wrong output."""
        return tokens.clamp(max=self._session.vocabulary - 1)
