"""TargetScores: the target's scores of each node of a verified tree, as plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from toolkit.tree import TokenTree, Verdict

if TYPE_CHECKING:
    from torch import Tensor


@frozen(eq=False)
class TargetScores:
    """The target's side of one step's nodes: the N of the tree, root first. Natural logarithms.

    `logprobs[N + 1]` of each node's token after its parent, and `ranks[N + 1]`, the number of tokens
    that are likelier there; the root has 0 and 0, and the last entry is the bonus. After each node:
    `entropies[N]` in nats, and the likeliest next token, `top_tokens[N]` and `top_logprobs[N]`.
    """

    logprobs: list[float]
    ranks: list[int]
    entropies: list[float]
    top_tokens: list[int]
    top_logprobs: list[float]

    @classmethod
    def of(cls, tree: TokenTree, verdict: Verdict, logits: Tensor) -> TargetScores:
        """Score a tree and its bonus by the target's `logits[N, V]`."""
        from torch.linalg import vecdot

        wide = logits if logits.dtype.itemsize > 4 else logits.float()
        logprobs = wide.log_softmax(-1)
        top_logprobs, top_tokens = logprobs.max(-1)
        above, below = [*tree.parents[1:], verdict.path[-1]], [*tree.tokens[1:], verdict.bonus]
        parents = logprobs[above]
        taken = parents.gather(1, top_tokens.new_tensor(below)[:, None])
        ranks = (parents > taken).count_nonzero(-1)
        entropies = -vecdot(logprobs.exp(), logprobs.clamp_min_(-1e30))  # 0 · −inf would be NaN
        return cls(
            [0.0, *taken[:, 0].tolist()],
            [0, *ranks.tolist()],
            entropies.tolist(),
            top_tokens.tolist(),
            top_logprobs.tolist(),
        )
