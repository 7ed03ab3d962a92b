"""Prompt lookup (Saxena 2023; LLMA, Yang et al. 2023)."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import log

import attrs
from attrs.validators import ge

from toolkit import Candidates, Drafter, Runtime, TokenTree, option


@attrs.define(eq=False)
class NgramDrafter(Drafter):
    """Prompt lookup: the tokens that followed earlier occurrences of the last n tokens.

    It searches the prompt and the output, and proposes several continuations. Long matches come before
    short ones. Probabilities are relative counts, with one count reserved for shorter matches (PPM's
    escape method A, Cleary & Witten 1984).
    """

    name = "ngram"
    n: int = option(4, help="longest match, in tokens", validator=ge(1))
    shortest: int = option(1, help="shortest match, in tokens", validator=ge(1))

    _text: list[int] = attrs.field(init=False, factory=list)
    _followers: dict[tuple[int, ...], Counter[int]] = attrs.field(
        init=False, factory=lambda: defaultdict(Counter)
    )

    def __attrs_post_init__(self) -> None:
        if self.shortest > self.n:
            raise ValueError(f"'shortest' must be at most 'n' ({self.n}): {self.shortest}")

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self.commit(prompt)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        found = [self._rank_followers(self._last_tokens(node, tree), k) for node in frontier]
        return Candidates(
            [[token for token, _ in row] for row in found],
            [[log(probability) for _, probability in row] for row in found],
        )

    def commit(self, tokens: list[int]) -> None:
        for token in tokens:
            for n in range(self.shortest, self.n + 1):
                if len(self._text) >= n:
                    self._followers[tuple(self._text[-n:])][token] += 1
            self._text.append(token)

    def _last_tokens(self, node: int, tree: TokenTree) -> list[int]:
        """The last n tokens up to a node, of committed text and the path from the root."""
        path: list[int] = []
        while node >= 0 and len(path) < self.n:
            path.append(tree.tokens[node])
            node = tree.parents[node]
        missing = self.n - len(path)
        return self._text[max(0, len(self._text) - missing) :] * (missing > 0) + path[::-1]

    def _rank_followers(self, tail: list[int], k: int) -> list[tuple[int, float]]:
        """Up to `k` (token, probability) pairs, likeliest first."""
        found: dict[int, float] = {}
        left = 1.0
        for n in range(min(self.n, len(tail)), self.shortest - 1, -1):
            counts = self._followers.get(tuple(tail[-n:]))
            if not counts:
                continue
            total = counts.total() + 1
            for token, count in counts.items():
                found.setdefault(token, left * count / total)
            left /= total
            if len(found) >= k:
                break
        return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
