"""No drafts: plain autoregressive decoding, the baseline."""

from __future__ import annotations

import attrs

from toolkit import Candidates, Drafter, Runtime, TokenTree


@attrs.define
class NoDrafter(Drafter):
    """Autoregressive decoding: it proposes nothing, so every tree is only its root."""

    name = "none"

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        return Candidates.none(len(frontier))

    def commit(self, tokens: list[int]) -> None:
        pass
