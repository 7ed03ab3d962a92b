"""A small language model drafts for a large one (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

from math import inf

import attrs
from attrs.validators import and_, ge, lt

from toolkit import (
    Candidates,
    Drafter,
    DraftSession,
    Runtime,
    TokenTree,
    TranslatedDraft,
    option,
)


@attrs.define(eq=False)
class ModelDrafter(Drafter):
    """Speculative decoding with a draft model: any causal LM.

    One forward per tree level. The draft model has a KV cache of its own; rows of accepted tokens stay
    in it and are not forwarded again. At temperature 0 candidates are the likeliest tokens. For
    `sampler-match` they are the likeliest after the noise with which the target draws; for verifiers
    whose proof needs draws they are drawn from softmax(logits / temperature).

    A draft model with another tokenizer reads the target's text, and drafts the tokens that both have
    or, where these are few, text that is encoded anew (Timor et al. 2025); to that text no logits
    processors are applied.
    """

    name = "model"
    proposals = frozenset({"fixed", "sampled", "iid"})
    id: str = option(
        "",
        help="alias, folder or hub id; the target family's drafter when left out",
        model=True,
        translates=True,
    )
    temperature: float = option(
        0.0, help="temperature of drawn candidates; 0: the target's", validator=and_(ge(0), lt(inf))
    )
    fixed: int = option(
        0, help="likeliest tokens that come before drawn ones, for `hybrid`", validator=ge(0)
    )

    _draft: DraftSession | TranslatedDraft = attrs.field(init=False)
    _runtime: Runtime = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._runtime = runtime
        session, translation = runtime.session(self.id), runtime.translation(self.id)
        if translation is None:
            self._draft = DraftSession.start(session, prompt, runtime.vocabulary)
        else:
            self._draft = TranslatedDraft.start(session, prompt, translation, runtime.vocabulary)

    @property
    def draft_session(self) -> DraftSession | None:
        return self._draft if isinstance(self._draft, DraftSession) else None

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        if isinstance(self._draft, TranslatedDraft) and not self._draft.by_logits:
            return self._draft.candidates_after(tree, frontier, k)
        logits = self._draft.logits_after(tree, frontier)
        if logits is None:
            return Candidates.none(len(frontier))
        return self._runtime.candidates(
            tree, frontier, logits, k, temperature=self.temperature, fixed=self.fixed
        )

    def commit(self, tokens: list[int]) -> None:
        self._draft.commit(tokens)
