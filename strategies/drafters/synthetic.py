"""Drafts of a chosen acceptance, to measure what verification costs."""

from __future__ import annotations

import random
from math import log
from typing import ClassVar

import attrs
from attrs.validators import and_, ge, le

from toolkit import Candidates, Drafter, Runtime, TokenTree, option


@attrs.define(eq=False)
class SyntheticDrafter(Drafter):
    """Drafts that are right as often as you choose. It is for measurements alone, and never a default.

    Before the request it reads the target's own greedy text, by plain decoding, and its first candidate
    at each position is that text's token with the probability `acceptance`, and else another one. This
    shows how fast a drafter of that acceptance would be if drafting cost nothing. The time of reading
    is not part of the measured steps. Above temperature 0, acceptance is not the chosen one.
    """

    name = "synthetic"
    counts_start: ClassVar[bool] = False
    acceptance: float = option(
        0.8,
        help="probability that a position's first candidate is right",
        validator=and_(ge(0), le(1)),
    )
    tokens: int = option(128, help="tokens to read; after them nothing is drafted", validator=ge(1))
    seed: int = option(0, help="of which positions are right")

    _text: list[int] = attrs.field(init=False, factory=list)  # prompt, and what follows it
    _right: list[bool] = attrs.field(init=False, factory=list)  # by position
    _committed: int = attrs.field(init=False, default=0)
    _vocabulary: int = attrs.field(init=False, default=0)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        session = runtime.target_session()
        self._text, self._committed = list(prompt), len(prompt)
        self._vocabulary = runtime.vocabulary
        logits = session.prefill(prompt)
        for _ in range(min(self.tokens, session.positions - len(prompt))):
            self._text.append(int(logits.argmax()))
            logits = session.forward([self._text[-1]], [-1])[0]
            session.commit([0])
        rng = random.Random(self.seed)  # noqa: S311 no secret
        self._right = [rng.random() < self.acceptance for _ in self._text]

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        places = [self._committed + tree.depths[node] + 1 for node in frontier]
        found = [self._propose(place, k) for place in places]
        first = min(max(self.acceptance, 1e-6), 1 - 1e-6)
        logs = [log(first), *[log(min(first, (1 - first) / k))] * (k - 1)]
        return Candidates(found, [logs[: len(row)] for row in found])

    def _propose(self, place: int, k: int) -> list[int]:
        """Up to `k` tokens for a position of the text, of which none but the first can be right."""
        if place >= len(self._text):
            return []
        right, size = self._text[place], self._vocabulary
        wrong = [(right + n) % size for n in range(1, min(k + 1, size))]
        return [right, *wrong][:k] if self._right[place] else wrong[:k]

    def commit(self, tokens: list[int]) -> None:
        self._committed += len(tokens)
