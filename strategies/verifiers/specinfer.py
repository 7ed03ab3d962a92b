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
    child is an independent draw from it. If all are rejected, the bonus is drawn from p. So each node's
    output has the target's law (Miao et al. 2023, SpecInfer). The same token may be drawn twice, which
    wastes a node: `swor` accepts more.
    """

    name = "specinfer"
    exactness = "distribution"
    assumes = frozenset({"iid"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        children, path = tree.children(), [0]
        coins: dict[int, float | Tensor] = {}
        while True:
            node, shares = path[-1], []
            p = sampler.law(logits[node])
            for child in children[node]:
                q, token = tree.laws[node], tree.tokens[child]
                rest = (p - q).clamp_min(0)
                mass = rest.sum()  # 0: p is q, but for rounding
                shares.append((p[token] / q[token]).masked_fill(mass == 0, 1.0))
                p = (rest / mass).where(mass > 0, p)
            coins |= zip(children[node], shares, strict=True)
            accepted = sampler.first_accepted(shares)
            if accepted is None:
                return Verdict(path, sampler.draw(p), coins)
            path.append(children[node][accepted])
