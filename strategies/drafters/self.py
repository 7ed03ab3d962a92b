"""The target drafts for itself under a small KV policy (TriForce, Sun et al. 2024; MagicDec)."""

from __future__ import annotations

import attrs

from toolkit import Candidates, Choice, Drafter, DraftSession, KVPolicy, Runtime, TokenTree, option


@attrs.define(eq=False)
class SelfDrafter(Drafter):
    """TriForce style self-drafting: the target itself drafts, over a small part of its KV cache.

    Each level of a draft reads the target's weights and a small cache. It pays only for texts so long
    that reading the full cache takes longer than reading the weights. After each step the K/V of
    committed tokens are copied from the target; the K/V of drafted tokens are dropped.
    """

    name = "self"
    proposals = frozenset({"fixed", "sampled", "iid"})
    kv: Choice[KVPolicy] = option(
        "streaming:budget=256",
        help="KV policy of the drafts; it must not read queries",
        kind="kv",
    )

    _draft: DraftSession = attrs.field(init=False)
    _runtime: Runtime = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._runtime = runtime
        session = runtime.shared_session(self.kv)
        self._draft = DraftSession.start(session, prompt, session.vocabulary)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        logits = self._draft.logits_after(tree, frontier)
        if logits is None:
            return Candidates.none(len(frontier))
        return self._runtime.candidates(tree, frontier, logits, k)

    def commit(self, tokens: list[int]) -> None:
        self._draft.commit(tokens)
