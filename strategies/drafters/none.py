"""No drafts: plain autoregressive decoding, the baseline of everything."""

from __future__ import annotations

import attrs
from torch import Tensor

from toolkit import Candidates, Drafter, Runtime, TokenTree


@attrs.define
class NoDrafter(Drafter):
    """Propose nothing, so that every tree is its root: AR through the same loop."""

    name = "none"

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        return Candidates.none(len(frontier), tree.tokens.device)

    def commit(self, tokens: Tensor) -> None:
        pass
