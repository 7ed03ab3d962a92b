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
        children, path = tree.children(), [0]
        coins: dict[int, float] = {}
        p = {0: sampler.law(logits[0])}
        q, weights = dict(tree.laws), {0: p[0].new_ones(())}
        while True:
            node = path[-1]
            if children[node]:
                child = children[node][0]
                token, drawn = tree.tokens[child], node in q and child not in tree.fixed
                ratio = p[node][token] / q[node][token] if drawn else p[node][token]
                weights[child] = (weights[node] * ratio).clamp_max(1.0)
                p[child] = sampler.law(logits[child])
                path.append(child)
            elif node == 0 or sampler.accepts(coins.setdefault(node, weights[node].item())):
                return Verdict(path, sampler.draw(p[node]), coins)
            else:
                path.pop()
                children[path[-1]].pop(0)
                self._update(tree, node, p, q, weights)
                if path[-1] in q and children[path[-1]]:
                    q[path[-1]] = _without(q[path[-1]], tree.tokens[node])

    def _update(
        self,
        tree: TokenTree,
        leaf: int,
        p: dict[int, Tensor],
        q: dict[int, Tensor],
        weights: dict[int, Tensor],
    ) -> None:
        """Update the law and the weight of a rejected leaf's parent. They stay on the device."""
        node, token = tree.parents[leaf], tree.tokens[leaf]
        rest = weights[node] * p[node]
        if node in q and leaf not in tree.fixed:
            rest = (rest - q[node]).clamp_min_(0)
        else:
            rest[token] = 0.0
        left = rest.sum()
        if node:
            weights[node] = (left / (left + 1.0 - weights[node])).where(left > 0, left)
        p[node] = (rest / left).where(left > 0, p[node])


def _without(law: Tensor, token: int) -> Tensor:
    """A law without a token, normalised."""
    rest = law.clone()
    rest[token] = 0.0
    return rest / rest.sum()
