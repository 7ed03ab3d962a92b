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
        choice = logits.max(-1).indices.cpu()  # on CPU faster than argmax
        said, paths = choice.tolist(), {0: [0]}
        nodes = enumerate(zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True))
        for node, (token, parent) in nodes:
            if parent in paths and token == said[parent]:
                paths[node] = [*paths[parent], node]
        path = max(paths.values(), key=len)
        return Verdict(torch.tensor(path), choice[path[-1]])
