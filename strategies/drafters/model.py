"""A small language model drafts for a large one (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from toolkit import Candidates, Drafter, Runtime, Session, TokenTree, option


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
    _rows: dict[int, int] = attrs.field(init=False, factory=dict)  # tree node → scratch row
    _known: dict[tuple[int, int], int] = attrs.field(init=False, factory=dict)
    """(parent's scratch row or −1, token) → scratch row: how `commit` finds what is held."""
    _logits: dict[int, Tensor] = attrs.field(init=False, factory=dict)  # tree node → [V]

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        self._runtime = runtime
        self._session = runtime.session(self.id)
        self._pending = prompt
        if len(prompt) < self._session.positions:
            self._session.prefill(self._own(prompt))
            self._pending = prompt[:0]

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        root = self._session.length + len(self._pending) - (0 in self._rows)  # its position
        if root + int(tree.depths[frontier].max()) >= self._session.positions:
            return Candidates.none(len(frontier), tree.tokens.device)
        nodes = frontier.tolist()
        if 0 in nodes and 0 not in self._logits:
            self._forward_root(tree.tokens[:1])
        new = [node for node in nodes if node not in self._logits]
        if new:
            self._forward(tree, new)
        logits = torch.stack([self._logits[node] for node in nodes])
        logprobs, tokens = logits.float().log_softmax(-1).topk(min(k, logits.shape[1]))
        return Candidates(tokens.to(frontier.device), logprobs.to(frontier.device))

    def commit(self, tokens: Tensor) -> None:
        """Keep the rows that the committed path runs along; what is not held waits."""
        held = 0
        if 0 in self._rows:
            path: list[int] = []
            for token in tokens[1:].tolist():
                row = self._known.get((path[-1] if path else -1, token))
                if row is None:
                    break
                path.append(row)
            self._session.commit(torch.tensor(path, dtype=torch.long))
            held = 1 + len(path)
        self._pending = torch.cat([self._pending, tokens[held:]])
        self._rows, self._known, self._logits = {}, {}, {}

    def _forward_root(self, root: Tensor) -> None:
        """Cache the root, which is committed, and what was committed before it and not drafted."""
        chain = torch.cat([self._pending, root])
        rows = torch.arange(len(chain))
        self._logits[0] = self._session.forward(self._own(chain), rows - 1)[-1, : self._vocabulary]
        self._session.commit(rows)
        self._rows[0], self._pending = -1, root[:0]

    def _forward(self, tree: TokenTree, nodes: list[int]) -> None:
        """One forward over frontier nodes, as scratch rows below their parents' rows."""
        first, parents = self._session.scratch, tree.parents[nodes].tolist()
        above = [self._rows[parent] for parent in parents]
        tokens = tree.tokens[nodes]
        logits = self._session.forward(self._own(tokens), torch.tensor(above))
        for row, (node, parent, token) in enumerate(
            zip(nodes, above, tokens.tolist(), strict=True), first
        ):
            self._rows[node] = row
            self._known.setdefault((parent, token), row)
            self._logits[node] = logits[row - first, : self._vocabulary]

    @property
    def _vocabulary(self) -> int:
        """Ids that both models know; either may be padded beyond them."""
        return min(self._session.vocabulary, self._runtime.vocabulary)

    def _own(self, tokens: Tensor) -> Tensor:
        """Ids beyond this model's vocabulary become its last: a poor draft, never wrong output."""
        return tokens.clamp(max=self._session.vocabulary - 1)
