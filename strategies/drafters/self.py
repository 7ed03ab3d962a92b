"""The target drafts for itself under a small KV policy (TriForce, Sun et al. 2024; MagicDec)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Candidates, Choice, Drafter, KVPolicy, Runtime, Session, TokenTree, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define(eq=False)
class SelfDrafter(Drafter):
    """No second model: the target's own weights, over a small part of the target's own KV.

    Drafts cost as much as the target's weights and a small cache, so this pays where the text is so
    long that reading the KV outweighs reading the weights. After each step the verified KV is taken
    over from the target; nothing drafted is kept.
    """

    name = "self"
    kv: Choice[KVPolicy] = option(
        "streaming:budget=256",
        help="the policy to draft under; one that reads no queries",
        kind="kv",
    )

    _session: Session = attrs.field(init=False)
    _rows: dict[int, int] = attrs.field(init=False, factory=dict)  # tree node → scratch row
    _logits: dict[int, Tensor] = attrs.field(init=False, factory=dict)  # tree node → [V]

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._session = runtime.shared_session(self.kv)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        deepest = self._session.length + max(tree.depths[node] for node in frontier)
        if deepest >= self._session.positions:
            return Candidates.none(len(frontier))
        if new := [node for node in frontier if node not in self._logits]:
            self._forward(tree, new)
        import torch

        logits = torch.stack([self._logits[node] for node in frontier])
        logprobs, tokens = logits.float().log_softmax(-1).topk(min(k, logits.shape[1]))
        return Candidates(tokens.tolist(), logprobs.tolist())

    def _forward(self, tree: TokenTree, nodes: list[int]) -> None:
        """One forward over frontier nodes, as scratch rows below their parents' rows."""
        first = self._session.scratch
        above = [self._rows.get(tree.parents[node], -1) for node in nodes]
        logits = self._session.forward([tree.tokens[node] for node in nodes], above)
        for row, node in enumerate(nodes):
            self._rows[node], self._logits[node] = first + row, logits[row]

    def commit(self, tokens: list[int]) -> None:
        """The target holds these tokens' KV by now, and this session takes it over."""
        self._session.commit([])
        self._rows, self._logits = {}, {}
