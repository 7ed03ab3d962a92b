"""Verification of drafts that were drawn without replacement, node by node (Sequoia, RSD)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Sampler, TokenTree, Verdict, Verifier

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Swor(Verifier):
    """Sampling without replacement: at each node the children are tried in the order of their draws.

    With the target's law p and the drafter's law q at a node, child x is accepted with probability
    min(1, p(x) / q(x)). If it is rejected, p becomes (p − q)₊, normalised, and q becomes q without x,
    normalised: given the rejections, the next child is a draw from that q. If all are rejected, the
    bonus is drawn from p. For a child that was not drawn, q is one at x. So each node's
    output has the target's law (Jeon et al. 2024, Recursive Speculative Decoding; Chen et al. 2024,
    Sequoia).
    """

    name = "swor"
    exactness = "distribution"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        children, path = tree.children(), [0]
        coins: dict[int, float | Tensor] = {}
        while True:
            node, shares = path[-1], []
            p, q = sampler.law(logits[node]), tree.laws.get(node)
            for child in children[node]:
                token = tree.tokens[child]
                if q is None or child in tree.fixed:
                    rest, share = p.clone(), p[token]
                    rest[token] = 0.0
                else:
                    rest, share = (p - q).clamp_min_(0), p[token] / q[token]
                mass = rest.sum()  # 0: p is q, but for rounding
                shares.append(share.masked_fill(mass == 0, 1.0))
                p = (rest / mass).where(mass > 0, p)
                if q is not None and child != children[node][-1]:
                    q = q.clone()
                    q[token] = 0.0
                    q /= q.sum()
            coins |= zip(children[node], shares, strict=True)
            accepted = sampler.first_accepted(shares)
            if accepted is None:
                return Verdict(path, sampler.draw(p), coins)
            path.append(children[node][accepted])
