"""A small language model drafts for a large one (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

from math import inf

import attrs
from attrs.validators import and_, ge, lt

from toolkit import Candidates, Drafter, DraftSession, Runtime, TokenTree, option


@attrs.define(eq=False)
class ModelDrafter(Drafter):
    """Speculative decoding with a draft model: any causal LM that has the target's vocabulary.

    One forward per tree level. The draft model has a KV cache of its own; rows of accepted tokens stay
    in it and are not forwarded again. Where the verifier needs drawn candidates, they are drawn
    from softmax(logits / temperature) without replacement; otherwise they are the likeliest tokens.
    """

    name = "model"
    proposals = frozenset({"fixed", "sampled"})
    id: str = option(
        "", help="alias, folder or hub id; the target family's drafter when left out", model=True
    )
    temperature: float = option(
        0.0, help="temperature of drawn candidates; 0: the target's", validator=and_(ge(0), lt(inf))
    )

    _draft: DraftSession = attrs.field(init=False)
    _runtime: Runtime = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._runtime = runtime
        self._draft = DraftSession.start(runtime.session(self.id), prompt, runtime.vocabulary)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        position, temperature = self._draft.root_position, self._runtime.draft_temperature
        logits = self._draft.logits_after(tree, frontier)
        if logits is None:
            return Candidates.none(len(frontier))
        if temperature is None:
            return Candidates.top(logits, k)
        import torch

        missing = self._runtime.vocabulary - logits.shape[1]  # tokens that only the target knows
        scores = torch.nn.functional.pad(logits.float(), (0, missing), value=-inf)
        keys = [f"{position} {_path_tokens(tree, node)}" for node in frontier]
        noise = [self._runtime.noise(key, row) for key, row in zip(keys, scores, strict=True)]
        return Candidates.draw(scores / (self.temperature or temperature), torch.stack(noise), k)

    def commit(self, tokens: list[int]) -> None:
        self._draft.commit(tokens)


def _path_tokens(tree: TokenTree, node: int) -> list[int]:
    """The tokens from a node up to the root."""
    tokens = []
    while node >= 0:
        tokens.append(tree.tokens[node])
        node = tree.parents[node]
    return tokens
