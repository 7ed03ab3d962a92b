"""Sampler match: draw what AR would draw, and accept a draft that equals it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Sampler, TokenTree, Verdict, Verifier

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class SamplerMatch(Verifier):
    """Sampler match: draws the target's token at each node and accepts the child that equals it.

    The draw depends on the request's seed, the token's position and the target's law there, so the
    tokens are those that AR draws with the same seed, whatever was drafted. A node accepts with
    probability Σ p(children), the most that any lossless verifier can reach for children that were
    not drawn. Any tree is right: pruned, sorted, with duplicates. At temperature 0 it is
    `greedy`.
    """

    name = "sampler-match"
    exactness = "token"
    assumes = frozenset({"fixed", "sampled", "iid"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        drawn, paths = [sampler.token(logits[0], 0)], {0: [0]}  # drawn: by depth, along the path
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            if parent in paths and token == drawn[tree.depths[parent]]:
                paths[node] = [*paths[parent], node]
                if tree.depths[node] == len(drawn):  # not a duplicate of an accepted sibling
                    drawn.append(sampler.token(logits[node], tree.depths[node]))
        path = max(paths.values(), key=len)
        return Verdict(path, drawn[len(path) - 1])
