"""QueryLog: the queries of committed tokens, kept for a policy that reads them."""

from __future__ import annotations

import torch
from attrs import define
from torch import Tensor


@define(eq=False)
class QueryLog:
    """Queries of several layers of one shape. H counts the heads of all, layer by layer."""

    scratch: list[list[Tensor]]  # of each layer: queries [heads, N, D] of scratch rows, by forward
    committed: Tensor | None = None  # [H, T, D] of the last committed positions

    @classmethod
    def empty(cls, layers: int) -> QueryLog:
        """A log of so many layers that holds nothing."""
        return cls([[] for _ in range(layers)])

    def add(self, layer: int, queries: Tensor) -> None:
        """Keep `queries[heads, N, D]` of a layer's newest scratch rows."""
        self.scratch[layer].append(queries)

    @property
    def drafted(self) -> bool:
        """Whether it holds queries of scratch rows."""
        return bool(self.scratch[0])

    def commit(self, rows: list[int]) -> None:
        """Keep the queries of scratch rows `rows[A]` as committed ones, and drop the others."""
        forwards = [torch.cat(parts) for parts in zip(*self.scratch, strict=True)]
        queries = torch.cat(forwards, 1)
        kept = [queries[:, row : row + 1] for row in rows]  # an index would be sent to the device
        before = queries[:, :0] if self.committed is None else self.committed
        self.committed = torch.cat([before, *kept], 1)
        self.scratch = [[] for _ in self.scratch]

    def take(self, later: int) -> Tensor | None:
        """Remove the committed queries but the `later` last ones, and return them; None if nothing
        is logged."""
        if self.committed is None:
            return None
        taken, rest = self.committed.split([self.committed.shape[1] - later, later], 1)
        self.committed = rest.clone()
        return taken

    def part(self, layers: list[int]) -> QueryLog:
        """The log of some of the layers. Call it when nothing is drafted."""
        log = QueryLog.empty(len(layers))
        if self.committed is not None:
            heads = self.committed.chunk(len(self.scratch))
            log.committed = torch.cat([heads[layer] for layer in layers])
        return log

    @property
    def bytes(self) -> int:
        """Bytes of every tensor that the log keeps."""
        drafted = sum(queries.nbytes for parts in self.scratch for queries in parts)
        return drafted + (0 if self.committed is None else self.committed.nbytes)
