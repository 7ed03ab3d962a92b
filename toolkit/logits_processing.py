"""Logits processors: change the target's logits by the tokens before them, at each node of a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from toolkit.tree import TokenTree

if TYPE_CHECKING:
    from torch import Tensor


class LogitsProcessor(Protocol):
    """Changes a token's logits by the tokens before it: `generate`'s processors are of this kind.

    Must be a function of its arguments alone, without a memory of earlier calls: it is asked about
    drafted tokens that are rejected later, too.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits [1, V] that follow `input_ids[1, T]`, made of the model's own, `scores[1, V]`."""


def process_nodes(
    processor: LogitsProcessor | None, committed: list[int], tree: TokenTree, logits: Tensor
) -> Tensor:
    """The `logits[N, V]` of a tree's nodes, processed: float32 [N, V]; as they are without a processor.

    Each node's history is its own path: `committed[T]`, which ends with the root, and the tokens from
    there down to the node. So every node has the logits that AR would have after these tokens, and
    whatever a verifier proves or draws by them holds for the processed law. float32, as `generate` has.

    `Pipeline.stream(processor=…)` takes a processor, and `decode` calls this before the verifier.
    Temperature, top-k and the like come after the processors, as in `generate`: see `Sampling`.
    """
    if processor is None:
        return logits
    import torch

    before = torch.tensor(committed, device=logits.device)
    paths: list[Tensor] = [before.new_empty(0)]
    for token, parent in zip(tree.tokens[1:], tree.parents[1:], strict=True):
        paths.append(torch.cat([paths[parent], before.new_tensor([token])]))
    own = logits.to(torch.float32, copy=True)  # processors may change it in place
    rows = [
        processor(torch.cat([before, path])[None], own[node : node + 1])
        for node, path in enumerate(paths)
    ]
    return torch.cat(rows)


def join(first: LogitsProcessor | None, second: LogitsProcessor | None) -> LogitsProcessor | None:
    """Both processors, one after the other; None for none."""
    if first is None:
        return second
    if second is None:
        return first
    return lambda input_ids, scores: second(input_ids, first(input_ids, scores))
