"""Drafts of a chosen acceptance, to measure what verification costs."""

from __future__ import annotations

import random
from math import log
from typing import TYPE_CHECKING, ClassVar

import attrs
from attrs.validators import and_, ge, le

from toolkit import Candidates, Drafter, Runtime, Session, TokenTree, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define(eq=False)
class SyntheticDrafter(Drafter):
    """Drafts that are right as often as you choose. It is for measurements alone, and never a default.

    Before the request it reads the target's own greedy text, by plain decoding, and its first candidate
    at each position is that text's token with the probability `acceptance`, and else another one. This
    shows how fast a drafter of that acceptance would be if drafting cost nothing. The time of reading
    is not part of the measured steps. Above temperature 0 and with logits processors, which it does not
    apply, its acceptance is another one, and it reads anew after each step.
    """

    name = "synthetic"
    counts_start: ClassVar[bool] = False
    acceptance: float = option(
        0.8,
        help="probability that a position's first candidate is right",
        validator=and_(ge(0), le(1)),
    )
    tokens: int = option(128, help="tokens to read before the request", validator=ge(1))
    seed: int = option(0, help="of which positions are right")

    _runtime: Runtime = attrs.field(init=False)
    _session: Session = attrs.field(init=False)  # of the target
    _text: list[int] = attrs.field(init=False)  # committed tokens, and the greedy ones after them
    _logits: Tensor = attrs.field(init=False)  # [V], after the last token of the text
    _committed: int = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._runtime, self._committed = runtime, len(prompt)
        self._read(prompt)
        self._read_on(len(prompt) + self.tokens)

    def _read(self, text: list[int]) -> None:
        self._text, self._session = list(text), self._runtime.target_session()
        self._logits = self._session.prefill(text)

    def _read_on(self, length: int) -> None:
        """Extend the text to a length, or to the last position of the target."""
        while len(self._text) < min(length, self._session.positions):
            self._text.append(int(self._logits.argmax()))
            self._logits = self._session.forward([self._text[-1]], [-1])[0]
            self._session.commit([0])

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        found = [self._propose(self._committed + tree.depths[node] + 1, k) for node in frontier]
        first = min(max(self.acceptance, 1e-6), 1 - 1e-6)
        logs = [log(first), *[log(min(first, (1 - first) / k))] * (k - 1)]
        return Candidates(found, [logs[: len(row)] for row in found])

    def _propose(self, place: int, k: int) -> list[int]:
        """Up to `k` tokens for a position of the text, of which none but the first can be right."""
        self._read_on(place + 1)
        if place >= len(self._text):
            return []
        right, size = self._text[place], self._runtime.vocabulary
        chance = random.Random(f"{self.seed} {place}").random()  # noqa: S311 no secret
        wrong = [(right + n) % size for n in range(1, min(k + 1, size))]
        return [right, *wrong][:k] if chance < self.acceptance else wrong[:k]

    def commit(self, tokens: list[int]) -> None:
        start, self._committed = self._committed, self._committed + len(tokens)
        if self._text[start : self._committed] != tokens:  # sampled, or longer than what was read
            self._read([*self._text[:start], *tokens])
