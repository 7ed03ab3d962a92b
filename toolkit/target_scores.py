"""TargetScores: the target's scores of each node of a verified tree, as plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from toolkit.transfer import fetch
from toolkit.tree import TokenTree, Verdict

if TYPE_CHECKING:
    from torch import Tensor

TOP = 5  # next tokens of the target that are kept for each node
BLOCK = 64  # columns of a row whose highest one is found first
FEW = 2**17  # logits among which `topk` finds them sooner


@frozen(eq=False)
class TargetScores:
    """The target's side of one step's nodes: the N of the tree, root first. Natural logarithms.

    `logprobs[N + 1]` of each node's token after its parent, and `ranks[N + 1]`, the number of tokens
    that are likelier there; the root has 0 and 0, and the last entry is the bonus. After each node that
    is a parent, of the bonus, too: `entropies[N]` in nats, and the likeliest next tokens,
    `top_tokens[N][5]` and `top_logprobs[N][5]`. After the others: None and no tokens.
    """

    logprobs: list[float]
    ranks: list[int]
    entropies: list[float | None]
    top_tokens: list[list[int]]
    top_logprobs: list[list[float]]

    @classmethod
    def of(cls, tree: TokenTree, verdict: Verdict, logits: Tensor) -> TargetScores:
        """Score a tree and its bonus by the target's `logits[N, V]`.

        A pass over R × V numbers costs time: only the rows of R parents are read, in few passes.
        """
        import torch

        above, tokens = [*tree.parents[1:], verdict.path[-1]], [*tree.tokens[1:], verdict.bonus]
        parents = sorted(set(above))
        place = {node: row for row, node in enumerate(parents)}
        rows = [place[node] for node in above]
        kept = logits.index_select(0, torch.tensor(parents, device=logits.device))
        wide = kept if kept.dtype.itemsize > 4 else kept.float()
        logprobs, law = wide.log_softmax(-1), wide.softmax(-1)
        found = fetch(*_find_likeliest(logprobs), logprobs[rows, tokens])
        tops, top_tokens, taken = (each.tolist() for each in found)
        ranks = [
            sum(top > logprob for top in tops[row])
            if logprob >= tops[row][-1]
            else int((logprobs[row] > logprob).count_nonzero())
            for row, logprob in zip(rows, taken, strict=True)
        ]
        means = torch.linalg.vecdot(
            law, logprobs.clamp_min_(-1e30)
        ).tolist()  # 0 · −inf would be NaN
        after = [place.get(node) for node in range(len(tree))]
        return cls(
            [0.0, *taken],
            [0, *ranks],
            [None if row is None else -means[row] for row in after],
            [[] if row is None else top_tokens[row] for row in after],
            [[] if row is None else tops[row] for row in after],
        )


def _find_likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The five highest of each row of `logits[R, V]` and their columns, as `topk` gives them.

    They are in the five blocks of columns with the highest maxima. A maximum takes less time than
    `topk`: on a CPU this is eight times as fast for V = 151,936.
    """
    import torch

    rows, columns = logits.shape
    if columns % BLOCK or logits.numel() < FEW:
        values, places = logits.topk(min(TOP, columns))
        return values, places
    blocks = logits.view(rows, -1, BLOCK).amax(-1).topk(TOP).indices
    near = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    values, places = logits.gather(1, near).topk(TOP)
    return values, near.gather(1, places)
