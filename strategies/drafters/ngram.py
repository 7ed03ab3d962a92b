"""Prompt look-up: what followed these words last time (Saxena 2023; LLMA, Yang et al. 2023)."""

from __future__ import annotations

from collections import Counter, defaultdict

import attrs
import torch
from attrs.validators import ge
from torch import Tensor

from toolkit import Candidates, Drafter, Runtime, TokenTree, option


@attrs.define(eq=False)
class NgramDrafter(Drafter):
    """Propose the tokens that followed the last n tokens before, in prompt and output.

    Several continuations, not only the latest: from long n to short, each with its count as
    probability and one count left over for the shorter n (PPM's escape method A, Cleary & Witten
    1984). No model, no memory beyond the text.
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

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        self.commit(prompt)

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
        found = [self._after(self._tail(node, tokens, parents), k) for node in frontier.tolist()]
        width = max(map(len, found))
        padded = [row + [(0, 0.0)] * (width - len(row)) for row in found]
        pairs = torch.tensor(padded, dtype=torch.float64).reshape(len(found), width, 2)
        return Candidates(pairs[..., 0].long(), pairs[..., 1].log())

    def commit(self, tokens: Tensor) -> None:
        for token in tokens.tolist():
            for n in range(self.shortest, self.n + 1):
                if len(self._text) >= n:
                    self._followers[tuple(self._text[-n:])][token] += 1
            self._text.append(token)

    def _tail(self, node: int, tokens: list[int], parents: list[int]) -> list[int]:
        """The last n tokens up to a node: committed text, then the path from the root."""
        path: list[int] = []
        while node >= 0 and len(path) < self.n:
            path.append(tokens[node])
            node = parents[node]
        missing = self.n - len(path)
        return self._text[max(0, len(self._text) - missing) :] * (missing > 0) + path[::-1]

    def _after(self, tail: list[int], k: int) -> list[tuple[int, float]]:
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
