"""Logits processors: change logits by the tokens before them, at each node of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from attrs import define, field, frozen

from toolkit.generate_options import takes_rows
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


@define(eq=False)
class PathProcessor:
    """The logits processor of one request, at the nodes of its trees: for the target and the drafter.

    Each node's history is its own path: `committed[T]`, which ends with the root, and the tokens from
    there down to the node. So the target's logits at every node are those that AR would have after
    these tokens, and whatever a verifier proves or draws by them holds for the processed law; and a
    drafter's candidates are those of its processed law, which is the one that a verifier is told.

    `Pipeline.stream(processor=…)` takes a processor. The engine adds to `committed` what it emits, and
    asks before the verifier does; `Proposer` asks for the drafter. Temperature, top-k and the like come
    after the processors, as in `generate`: see `Sampling`.
    """

    committed: list[int] = field(factory=list)
    processor: LogitsProcessor | None = None  # of any number of rows, as `join` makes it
    _before: Tensor | None = field(init=False, default=None)  # `committed` on the device

    def __call__(self, tree: TokenTree, nodes: Sequence[int], logits: Tensor) -> Tensor:
        """The `logits[F, V]` after `nodes[F]`, processed: float32, as `generate` has; as they are
        without a processor. V is the target's."""
        if self.processor is None:
            return logits
        import torch

        if self._before is None or len(self._before) != len(self.committed):
            self._before = torch.tensor(self.committed, device=logits.device)
        own = logits.to(torch.float32, copy=True)  # processors may change it in place
        depths = [tree.depths[node] for node in nodes]
        for depth in sorted(set(depths)):  # whose histories have one length
            rows = [row for row, at in enumerate(depths) if at == depth]
            paths = [tree.path_tokens(nodes[row])[1:] for row in rows]
            below = self._before.new_tensor(paths)
            ids = torch.cat([self._before.expand(len(rows), -1), below], 1)
            if len(rows) == len(own):
                return self.processor(ids, own)
            own[rows] = self.processor(ids, own[rows])
        return own


def join(*given: LogitsProcessor | list[LogitsProcessor] | None) -> LogitsProcessor | None:
    """Processors, or lists of them, as one that takes any number of rows; None for none."""
    flat: list[LogitsProcessor] = []
    for each in given:
        flat += each if isinstance(each, list) else [each] if each is not None else []
    return InTurn([p if takes_rows(p) else RowByRow(p) for p in flat]) if flat else None


@frozen(eq=False)
class InTurn:
    """Processors, one after the other. `LogitsProcessorList` looks up each one's arguments at every
    call, which takes about as long as a call."""

    processors: list[LogitsProcessor]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for processor in self.processors:
            scores = processor(input_ids, scores)
        return scores


@frozen(eq=False)
class RowByRow:
    """A processor that is given one row at a time, because it may know which one of a batch it is."""

    processor: LogitsProcessor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        rows = zip(input_ids.split(1), scores.split(1), strict=True)
        return torch.cat([self.processor(*row) for row in rows])
