"""Traversal verification: whole paths are accepted, from the leaves to the root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Sampler, TokenTree, Verdict, Verifier

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Traversal(Verifier):
    """Traversal verification: tries paths from the leaves upwards; block verification on a chain.

    Each node v has the target's law P_v, the drafter's law Q_v and a weight α_v: 1 at the root, and
    min(1, α_v · P_v(x) / Q_v(x)) at a child with token x. Go down by first children to a leaf. The path
    to it is accepted with probability α of the leaf, that to the root always; the bonus is drawn from P
    of the last node. If the leaf, with token x, is rejected, let R = (α_v P_v − Q_v)₊ at its parent v:
    P_v becomes R, normalised, α_v becomes ΣR / (ΣR + 1 − α_v), and Q_v becomes Q_v without x,
    normalised. The leaf is deleted, and the search goes on from v. For a child that was not drawn, Q_v
    is one at x. It accepts at least as much as `swor` (Weng et al. 2025, Traversal Verification; Sun et
    al. 2024, Block Verification).
    """

    name = "traversal"
    exactness = "distribution"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        children = tree.children()
        p: dict[int, Tensor] = {}
        q, weights, path = dict(tree.laws), {0: 1.0}, [0]
        while True:
            node = path[-1]
            if node not in p:
                p[node] = sampler.law(logits[node])
            if children[node]:
                child = children[node][0]
                ratio = p[node][tree.tokens[child]]
                if node in q:
                    ratio = ratio / q[node][tree.tokens[child]]
                weights[child] = min(1.0, weights[node] * ratio.item())
                path.append(child)
            elif node == 0 or sampler.accepts(weights[node]):
                return Verdict(path, sampler.draw(p[node]))
            else:
                path.pop()
                self._update(node, path[-1], tree.tokens[node], p, q, weights)
                children[path[-1]].pop(0)

    def _update(
        self,
        leaf: int,
        node: int,
        token: int,
        p: dict[int, Tensor],
        q: dict[int, Tensor],
        weights: dict[int, float],
    ) -> None:
        """Update a node's laws and weight after its leaf with this token was rejected."""
        if node in q:
            rest = (weights[node] * p[node] - q[node]).clamp_min(0)
            q[node] = q[node].index_fill(0, _as_index(q[node], token), 0.0)
            q[node] /= q[node].sum()
        else:
            rest = (weights[node] * p[node]).index_fill(0, _as_index(p[node], token), 0.0)
        left = rest.sum().item()
        if node:
            weights[node] = left / (left + 1.0 - weights[node]) if left else 0.0
        if left:
            p[node] = rest / left


def _as_index(like: Tensor, token: int) -> Tensor:
    return like.new_tensor([token]).long()
