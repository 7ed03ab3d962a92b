"""A described decoder captured as graphs: one launch for a whole pass, whatever its context length.

There is a graph for each bucket of rows. A pass's numbers go to the graph's inputs in one copy. Padding
rows repeat the last row, and their K/V go to the slab's last row.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cached_property
from itertools import compress

import torch
from attrs import define, frozen
from torch import Tensor

from toolkit.runtime.compute.attention import Pass, Rows, masked_attention
from toolkit.runtime.compute.executors.graphs import Recorder, recorder_for
from toolkit.runtime.compute.layers.decoder import Decoder
from toolkit.runtime.compute.linears.batch_invariance import RowRule
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kernels.triton.attention import tree_attention
from toolkit.runtime.kernels.triton.jit import power_of_two
from toolkit.runtime.kernels.triton.rotary import rotate_and_store
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.slab import Slab, Slabs

ROWS = (1, 2, 4, 8, 16, 32, 64)  # buckets of rows
DEEPEST = 64  # scratch rows on a path


@frozen(eq=False)
class GraphInputs:
    """What a graph of M rows reads: one int32 tensor that stays where it is, in parts.

    The number of committed rows C; for each row its token, position, row of the slab, and depth below
    the prefix; and its path, `DEEPEST` rows of the slab in order of position, of which the last is
    repeated.
    """

    packed: Tensor  # int32 [1 + M · (4 + DEEPEST)]
    rows: int  # M

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> GraphInputs:
        """Inputs of zeros."""
        size = 1 + rows * (4 + DEEPEST)
        return cls(torch.zeros(size, dtype=torch.int32, device=device), rows)

    def fill(self, host: Rows, first: int, padding_row: int) -> None:
        """Write the numbers of a pass's rows, where all layers hold `first` committed rows."""
        tokens, positions = host.tokens.tolist(), host.query_pos.tolist()
        lineage, padding = host.lineage.tolist(), self.rows - len(tokens)
        end = first + len(lineage[0])
        columns = [
            first,
            *tokens + tokens[-1:] * padding,
            *positions + positions[-1:] * padding,
            *range(end - len(tokens), end),
            *[padding_row] * padding,
        ]
        raw = array("i", range(first, end)).tobytes()
        rows = [raw[at : at + 4] for at in range(0, len(raw), 4)]
        paths = [list(compress(rows, row)) for row in lineage]
        paths += paths[-1:] * padding
        columns += [len(path) - 1 for path in paths]
        whole = [b"".join(path) + path[-1] * (DEEPEST - len(path)) for path in paths]
        packed = bytearray().join([array("i", columns).tobytes(), *whole])
        sent = torch.frombuffer(packed, dtype=torch.int32)
        if self.packed.is_cuda:
            sent = sent.pin_memory()
        self.packed.copy_(sent, non_blocking=True)

    @property
    def first(self) -> Tensor:
        """C [1]."""
        return self.packed[:1]

    def column(self, index: int) -> Tensor:
        """Tokens (0), positions (1), rows of the slab (2) or depths (3): [M]."""
        return self.packed[1 + index * self.rows : 1 + (index + 1) * self.rows]

    @property
    def paths(self) -> Tensor:
        """The rows of the slab on each row's path [M, DEEPEST], itself last."""
        return self.packed[1 + 4 * self.rows :].view(self.rows, DEEPEST)


@frozen(eq=False, slots=False)
class GraphRows:
    """The M rows of a captured pass, as layers see them."""

    slab: Slab
    inputs: GraphInputs
    tables: dict[str, tuple[Tensor, Tensor]]  # cos and sin [T, r], by kind of layer

    @cached_property
    def visible(self) -> Tensor:
        """Which rows of the slab each row sees: bool [M, rows]."""
        rows = torch.arange(self.slab.buffer.shape[3], device=self.slab.buffer.device)
        prefix = (rows < self.inputs.first).expand(self.inputs.rows, -1)
        return prefix.scatter(1, self.inputs.paths.long(), torch.ones_like(prefix))

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        config: AttentionConfig,
        rotary: str | None,
    ) -> Tensor:
        """As `LayerRows.attend`."""
        inputs, (keys, values) = self.inputs, self.slab.buffer[layer]
        slots = inputs.column(2)
        if rotary is None:
            keys.index_copy_(1, slots.long(), key.transpose(0, 1))
            values.index_copy_(1, slots.long(), value.transpose(0, 1))
        else:
            tables, at = self.tables[rotary], inputs.column(1)
            query = rotate_and_store(query, key, value, *tables, at, slots, keys, values)
        if config.softcap is not None or config.s_aux is not None:
            return masked_attention(query, keys, values, self.visible, config)
        path = inputs.column(3), inputs.paths
        return tree_attention(query, keys, values, inputs.first, *path, config.scaling).flatten(1)


@frozen(eq=False)
class Graph:
    """A captured pass of M rows."""

    inputs: GraphInputs
    replay: Callable[[], None]
    logits: Tensor  # [M, V]; the next replay overwrites them
    tables: tuple[object, ...]  # the cos/sin tables that it reads


@define(eq=False)
class Captured:
    """Runs a decoder's passes as graphs."""

    decoder: Decoder
    slabs: Slabs
    recorder: Recorder
    rule: RowRule  # how many rows linears need
    failure: str | None = None  # why nothing is captured any more
    captures: int = 0  # graphs captured so far

    @classmethod
    def of(cls, decoder: Decoder, linears: Linears, device: torch.device) -> Captured | None:
        """A decoder that is captured; None where nothing records, or where layers differ in shape."""
        recorder = recorder_for(device)
        shapes = {(part.attention.kv_heads, part.attention.width) for part in decoder.layers}
        if recorder is None or len(shapes) > 1:
            return None
        slabs = Slabs((len(decoder.layers), *shapes.pop()), linears.dtype, device)
        return cls(decoder, slabs, recorder, linears.rule)

    @torch.no_grad()
    def forward(self, now: Pass, keep: int) -> Tensor | None:
        """As `Executor.forward`; None for a pass that cannot be captured."""
        count = len(now.host.tokens)
        if now.whole_prompt or (keep and count > ROWS[-1]):
            return None  # a prompt, which is faster in one piece
        first = self._first_row(now)
        logits = []
        for begin in range(0, count, ROWS[-1]):
            graph = None if first is None else self._graph(now, first, begin)
            if graph is None:
                now.cache.captured &= not now.eviction.clock.started
                return None
            graph.replay()
            logits.append(graph.logits[: count - begin].clone())
        whole = logits[0] if len(logits) == 1 else torch.cat(logits)
        return whole[count - keep :] if keep else whole

    def _first_row(self, now: Pass) -> int | None:
        """The committed rows C of every layer; None where a pass needs more than the graphs know: masks
        of a policy, a log of queries, longer paths."""
        cache = now.cache
        if self.failure:
            return None
        if len(cache.initialized) < len(cache.layers) or now.deepest - cache.length >= DEEPEST:
            return None
        hidden = now.eviction.hides(now.deepest) or any(
            table.hides(now.deepest) or (table.window or now.deepest + 1) <= now.deepest
            for table in cache.tables
        )
        if hidden or any(map(now.eviction.logs, cache.layers)):
            return None
        return cache.rows

    def _graph(self, now: Pass, first: int, begin: int) -> Graph | None:
        """The graph for a pass's rows from `begin` on, with their numbers in its inputs."""
        slab = now.cache.take_slab(first + now.cache.scratch)
        host = now.host.part(begin, ROWS[-1])
        padded = self.rule.padded(len(host.tokens))
        rows = next(size for size in ROWS if size >= padded)
        furthest = power_of_two(max(now.deepest + 1, slab.room)) - 1
        tables = tuple(table.upto(furthest) for table in self.decoder.rotary.values())
        graph: Graph | None = slab.graphs.get(rows)
        if graph is None or any(a is not b for a, b in zip(graph.tables, tables, strict=True)):
            inputs = GraphInputs.empty(rows, slab.buffer.device)
            inputs.fill(host, first, slab.room)  # recording runs the pass
            graph = self._capture(slab, inputs, tables)
            if graph is not None:
                slab.graphs[rows] = graph
        else:
            graph.inputs.fill(host, first, slab.room)
        return graph

    def _capture(
        self, slab: Slab, inputs: GraphInputs, tables: tuple[object, ...]
    ) -> Graph | None:
        """Capture a pass over a slab; None where that fails."""
        try:
            replay, logits = self.recorder.record(lambda: self._run(slab, inputs))
        except RuntimeError as error:
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None
        self.captures += 1
        return Graph(inputs, replay, logits, tables)

    def _run(self, slab: Slab, inputs: GraphInputs) -> Tensor:
        """One pass: logits [M, V]."""
        decoder = self.decoder
        tables = {kind: table.tables for kind, table in decoder.rotary.items()}
        rows = GraphRows(slab, inputs, tables)
        return decoder.logits(*decoder.hidden(inputs.column(0), inputs.column(1), rows))
