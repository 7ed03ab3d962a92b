"""Verification of children of which some were drawn and some were chosen deterministically."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from toolkit import Sampler, TokenTree, Verdict, Verifier

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Hybrid(Verifier):
    """Hybrid: drawn children are tried first, then a token of the target is matched with the others.

    A drawn child x, whose law q excludes its earlier siblings, is accepted with probability
    min(1, p(x) / q(x)), where p is the target's law at the node. If it is rejected, p becomes (p − q)₊,
    normalised. If all drawn children are rejected, a token is drawn from p. If that is one of the
    children that were chosen deterministically, this child is accepted; otherwise it is the bonus. So
    the node's output has the target's law. With one drawn child it accepts with probability
    Σ_F p + Σ_other min(p, q), where F are the chosen children: the optimal-transport bound for such
    children. Without drawn children it accepts as often as `sampler-match`, and with drawn children
    alone as often as `swor`. The rule is ours; its parts are those of Leviathan et al. 2023 and Miao et
    al. 2023.
    """

    name = "hybrid"
    exactness = "distribution"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        children, path, bonus = tree.children(), [0], -1
        coins: dict[int, float | Tensor] = {}
        while bonus < 0:
            node, shares, drawn = path[-1], [], []
            chosen: dict[int, int] = {}  # by token
            p, q = sampler.law(logits[node]), tree.laws.get(node)
            q = None if q is None else q.clone()
            for child in children[node]:
                token = tree.tokens[child]
                if q is None or child in tree.fixed:
                    chosen.setdefault(token, child)
                else:
                    law = q / q.sum()
                    rest = (p - law).clamp_min(0)
                    mass = rest.sum()  # 0: p is q, but for rounding
                    shares.append((p[token] / law[token]).masked_fill(mass == 0, 1.0))
                    p = (rest / mass).where(mass > 0, p)
                    drawn.append(child)
                if q is not None:
                    q[token] = 0.0
            coins |= zip(drawn, shares, strict=True)
            accepted = sampler.first_accepted(shares)
            token = sampler.draw(p) if accepted is None else -1
            if accepted is not None:
                path.append(drawn[accepted])
            elif token in chosen:
                path.append(chosen[token])
            else:
                bonus = token
        return Verdict(path, bonus, coins)
