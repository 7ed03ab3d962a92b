"""Greedy verification: accept what the target itself would have said (Stern et al. 2018)."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from toolkit import TokenTree, Verdict, Verifier


@attrs.define
class Greedy(Verifier):
    """A node is accepted when it and all its ancestors are the argmax after their parents.

    The deepest such node ends the path (of equals, the first); the target's argmax there is the
    bonus. Ties between logits go to the lowest token id.
    """

    name = "greedy"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice = logits.max(-1).indices.to(tree.tokens.device)  # on CPU faster than argmax
        right = (tree.tokens == choice[tree.parents]).nonzero().flatten().tolist()
        parents, paths = tree.parents.tolist(), {0: [0]}
        for node in right:  # few: each is what the target says after its parent
            if node and parents[node] in paths:
                paths[node] = [*paths[parents[node]], node]
        path = torch.tensor(max(paths.values(), key=len), device=tree.tokens.device)
        return Verdict(path, choice[path[-1]])
