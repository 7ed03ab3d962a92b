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
        children, path, child = tree.children(), [0], 0
        while child >= 0:
            p, q, child = sampler.law(logits[path[-1]]), tree.laws.get(path[-1]), -1
            for node in children[path[-1]]:
                token = tree.tokens[node]
                law = make_point_mass(p, token) if q is None else q
                rest = (p - law).clamp_min(0)
                share, left = (p[token] / law[token]).item(), rest.sum().item()
                if left == 0 or sampler.accepts(share):  # nothing left: p equals q up to rounding
                    path.append(child := node)
                    break
                p = rest / left
                q = None if q is None else remove_token(q, token)
        return Verdict(path, sampler.draw(p))


def make_point_mass(like: Tensor, token: int) -> Tensor:
    """Return the law [V] that is one at a token."""
    law = like.new_zeros(like.shape)
    law[token] = 1.0
    return law


def remove_token(law: Tensor, token: int) -> Tensor:
    """Return the law [V] without a token, normalised."""
    rest = law.clone()
    rest[token] = 0.0
    return rest / rest.sum()
