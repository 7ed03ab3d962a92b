"""Verification of independent draws, node by node (SpecInfer's multi-round speculative sampling)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Sampler, TokenTree, Verdict, Verifier

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class SpecInfer(Verifier):
    """Multi-round sampling: at each node the children, drawn with replacement, are tried in turn.

    With the target's law p and the drafter's law q at a node, child x is accepted with probability
    min(1, p(x) / q(x)). If it is rejected, p becomes (p − q)₊, normalised; q stays, because the next
    child is an independent draw from it. If all are rejected, the bonus is drawn from p. For a child
    that was not drawn, as at temperature 0, q is one at x. So each node's output has the target's law
    (Miao et al. 2023, SpecInfer). The same token may be drawn twice, which wastes a node: `swor`
    accepts more.
    """

    name = "specinfer"
    exactness = "distribution"
    assumes = frozenset({"iid"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        children, path = tree.children(), [0]
        coins: dict[int, float | Tensor] = {}
        while True:
            node, shares = path[-1], []
            p, q = sampler.law(logits[node]), tree.laws.get(node)
            for child in children[node]:
                token = tree.tokens[child]
                law = q
                if law is None:
                    law = p.new_zeros(p.shape)
                    law[token] = 1.0
                rest = (p - law).clamp_min(0)
                mass = rest.sum()  # 0: p is q, but for rounding
                shares.append((p[token] / law[token]).masked_fill(mass == 0, 1.0))
                p = (rest / mass).where(mass > 0, p)
            coins |= zip(children[node], shares, strict=True)
            accepted = sampler.first_accepted(shares)
            if accepted is None:
                return Verdict(path, sampler.draw(p), coins)
            path.append(children[node][accepted])
