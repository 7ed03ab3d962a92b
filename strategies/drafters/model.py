"""A small language model drafts for a large one (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

import attrs

from toolkit import Candidates, Drafter, DraftSession, Runtime, TokenTree, option


@attrs.define(eq=False)
class ModelDrafter(Drafter):
    """Speculative decoding with a draft model: any causal LM that has the target's vocabulary.

    One forward per tree level. The draft model has a KV cache of its own; rows of accepted tokens stay
    in it and are not forwarded again.
    """

    name = "model"
    id: str = option(
        "", help="alias, folder or hub id; the target family's drafter when left out", model=True
    )

    _draft: DraftSession = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._draft = DraftSession.start(runtime.session(self.id), prompt, runtime.vocabulary)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        logits = self._draft.logits_after(tree, frontier)
        return Candidates.none(len(frontier)) if logits is None else Candidates.top(logits, k)

    def commit(self, tokens: list[int]) -> None:
        self._draft.commit(tokens)
