"""Greedy verification: accept tokens that equal the target's argmax (Stern et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Sampler, TokenTree, Verdict, Verifier

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Greedy(Verifier):
    """Greedy verification: a node is accepted if it and its ancestors equal the target's argmax.

    The deepest such node ends the path (the first of several); the target's argmax there is the
    bonus. Ties between logits go to the lowest token id.
    """

    name = "greedy"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled", "iid"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice, paths = sampler.likeliest(logits), {0: [0]}
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            if parent in paths and token == choice[parent]:
                paths[node] = [*paths[parent], node]
        path = max(paths.values(), key=len)
        return Verdict(path, choice[path[-1]])
