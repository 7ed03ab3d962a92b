"""Typical acceptance: accepts tokens that the target does not find too unlikely (lossy)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import and_, gt, le

from toolkit import Sampler, TokenTree, Verdict, Verifier, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Typical(Verifier):
    """Typical acceptance, which is lossy: the output does not have the target's law.

    A node x is accepted if its parent is and p(x) > min(ε, δ · exp(−H(p))), where p is the target's law
    after the parent and H its entropy in nats. The deepest accepted node ends the path (the first of
    several), and the bonus is drawn from the target's law there (Cai et al. 2024, Medusa). So likely
    tokens come out too often, and unlikely ones too seldom.
    """

    name = "typical"
    exactness = "lossy"
    assumes = frozenset({"fixed", "sampled", "iid"})
    epsilon: float = option(
        0.09, help="probability above which a token is accepted", validator=and_(gt(0), le(1))
    )
    delta: float = option(
        0.3, help="of exp(−entropy): a lower such probability", validator=and_(gt(0), le(1))
    )

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        import torch

        paths = {0: [0]}
        if len(tree) > 1:
            laws = sampler.law(logits)
            entropy = -(laws * laws.clamp_min(1e-300).log()).sum(-1)
            least = (self.delta * (-entropy).exp()).clamp_max(self.epsilon)
            shares = [laws[place] for place in zip(tree.parents, tree.tokens, strict=True)]
            bounds, known = torch.stack([least, torch.stack(shares)]).tolist()  # one copy to the host
            for node, parent in enumerate(tree.parents):
                if parent in paths and known[node] > bounds[parent]:
                    paths[node] = [*paths[parent], node]
        path = max(paths.values(), key=len)
        return Verdict(path, sampler.token(logits[path[-1]], len(path) - 1))
