"""Greedy verification: accept what the target itself would have said (Stern et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Sampler, TokenTree, Verdict, Verifier

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Greedy(Verifier):
    """A node is accepted when it and all its ancestors are the argmax after their parents.

    The deepest such node ends the path (of equals, the first); the target's argmax there is the
    bonus. Ties between logits go to the lowest token id.
    """

    name = "greedy"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice, paths = logits.max(-1).indices.tolist(), {0: [0]}  # on CPU faster than argmax
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            if parent in paths and token == choice[parent]:
                paths[node] = [*paths[parent], node]
        path = max(paths.values(), key=len)
        return Verdict(path, choice[path[-1]])
