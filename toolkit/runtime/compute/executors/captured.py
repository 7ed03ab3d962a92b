"""A described decoder captured as graphs: one launch for a whole pass, whatever its context length.

There is a graph for each bucket of rows, and others for passes that hide rows. A pass's numbers go to
the graph's inputs in one copy. Padding rows repeat the last row, and their K/V go behind all others.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cached_property, partial
from itertools import compress

import torch
from attrs import define, field, frozen
from torch import Tensor

from toolkit.runtime.compute.attention import HostRows, Pass, masked_attention
from toolkit.runtime.compute.cudnn import without_cudnn
from toolkit.runtime.compute.executors.graph_masks import GraphMasks, MaskLayout
from toolkit.runtime.compute.layers.decoder import Decoder
from toolkit.runtime.compute.linears.batch_invariance import RowRule
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kernels.graphs import Recorder, Thunk, recorder_for
from toolkit.runtime.kernels.triton.attention import tree_attention
from toolkit.runtime.kernels.triton.jit import power_of_two, runs
from toolkit.runtime.kernels.triton.rotary import rotate_and_store
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.slab import Nobody, Slab, Slabs, try_twice
from toolkit.transfer import write

ROWS = (1, 2, 4, 8, 16, 32, 64)  # buckets of rows
DEEPEST = 64  # scratch rows on a path


@frozen(eq=False)
class GraphInputs:
    """What a graph of M rows reads: one int32 tensor that stays where it is, in parts.

    The number of committed rows C; for each row its token, position, row of the slab, and depth below
    the prefix; and its path, `DEEPEST` rows of the slab in order of position, of which the last is
    repeated. Where T tables differ, C is that of the longest; also how many fewer each of them holds.
    """

    packed: Tensor  # int32 [1 + M · (4 + DEEPEST) + T]
    rows: int  # M
    tables: int = 0  # T

    @classmethod
    def empty(cls, rows: int, device: torch.device, tables: int = 0) -> GraphInputs:
        """Inputs of zeros."""
        size = 1 + rows * (4 + DEEPEST) + tables
        return cls(torch.zeros(size, dtype=torch.int32, device=device), rows, tables)

    def fill(self, host: HostRows, counts: list[int], padding_row: int) -> None:
        """Write the numbers of a pass's rows, where tables hold `counts` committed rows."""
        first = max(counts)
        tokens, positions = host.tokens, host.query_pos
        padding, end = self.rows - len(tokens), first + len(host.paths[0])
        columns = [
            first,
            *tokens + tokens[-1:] * padding,
            *positions + positions[-1:] * padding,
            *range(end - len(tokens), end),
            *[padding_row] * padding,
        ]
        raw = array("i", range(first, end)).tobytes()
        rows = [raw[at : at + 4] for at in range(0, len(raw), 4)]
        paths = [list(compress(rows, path)) for path in host.paths]
        paths += paths[-1:] * padding
        columns += [len(path) - 1 for path in paths]
        whole = [b"".join(path) + path[-1] * (DEEPEST - len(path)) for path in paths]
        fewer = array("i", [first - count for count in counts[: self.tables]])
        packed = bytearray().join([array("i", columns).tobytes(), *whole, fewer.tobytes()])
        write(torch.frombuffer(packed, dtype=torch.int32), self.packed)

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
        begin = 1 + 4 * self.rows
        return self.packed[begin : begin + self.rows * DEEPEST].view(self.rows, DEEPEST)

    @property
    def fewer(self) -> Tensor:
        """How many rows fewer than C each table holds [T]."""
        return self.packed[len(self.packed) - self.tables :]


@frozen(eq=False, slots=False)
class GraphRows:
    """The M rows of a captured pass, as layers see them."""

    slab: Slab
    inputs: GraphInputs
    tables: dict[str, tuple[Tensor, Tensor]]  # cos and sin [T, r], by kind of layer
    recorder: Recorder
    masks: GraphMasks | None = None
    stock: bool = False  # whether PyTorch's attention runs where ours could
    queries: list[Tensor] = field(factory=list)  # [M, H, D] of the layers that log them
    _on_paths: dict[int, Tensor] = field(init=False, factory=dict)  # what `_seen` gives, by table

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """By table: committed rows [T, 1], rows of the slab [T, M], those of paths [T, M, DEEPEST]."""
        inputs = self.inputs
        fewer = inputs.fewer[:, None]
        return inputs.first - fewer, inputs.column(2) - fewer, inputs.paths - fewer[..., None]

    def _places_of(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's committed rows [1], rows of the slab [M], and those of paths [M, DEEPEST]."""
        inputs, masks = self.inputs, self.masks
        if masks is None:
            return inputs.first, inputs.column(2), inputs.paths
        first, slots, paths = self._places
        at = masks.layout.table[layer]
        return first[at], slots[at], paths[at]

    def _seen(self, layer: int) -> Tensor:
        """Which rows of the slab are committed or on each row's path: bool [M, rows]."""
        table = 0 if self.masks is None else self.masks.layout.table[layer]
        if table not in self._on_paths:
            first, _, paths = self._places_of(layer)
            rows = torch.arange(self.slab.buffer.shape[3], device=first.device)
            prefix = (rows < first).expand(self.inputs.rows, -1)
            self._on_paths[table] = prefix.scatter(1, paths.long(), torch.ones_like(prefix))
        return self._on_paths[table]

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
        inputs, (keys, values) = self.inputs, self.slab.buffer[:, layer]
        first, slots, paths = self._places_of(layer)
        if rotary is None:
            keys.index_copy_(1, slots.long(), key.transpose(0, 1))
            values.index_copy_(1, slots.long(), value.transpose(0, 1))
        else:
            tables, at = self.tables[rotary], inputs.column(1)
            query = rotate_and_store(query, key, value, *tables, at, slots, keys, values)
        visible = None
        if self.masks is not None:
            visible = self.masks.visible(layer, inputs.column(1))
            if self.masks.layout.logged[layer]:
                self.queries.append(query)
        if self.stock or not config.by_scores_alone:
            seen = self._seen(layer)
            mask = seen if visible is None else (seen & visible).squeeze(0)
            return masked_attention(query, keys, values, mask, config)
        path = first, inputs.column(3), paths
        out = tree_attention(query, keys, values, *path, config.scaling, visible=visible)
        return out.flatten(1)

    def both(self, first: Thunk, second: Thunk) -> tuple[Tensor, Tensor]:
        """As `LayerRows.both`."""
        return self.recorder.both(first, second)


@frozen(eq=False)
class Graph:
    """A captured pass of M rows."""

    inputs: GraphInputs
    replay: Callable[[], None]
    logits: Tensor  # [M, V]; the next replay overwrites them
    tables: tuple[object, ...]  # the cos/sin tables that it reads
    masks: GraphMasks | None = None
    queries: Tensor | None = None  # [layers, M, H, D] of the layers that log them


@define(eq=False)
class Captured:
    """Runs a decoder's passes as graphs."""

    decoder: Decoder
    slabs: Slabs
    recorder: Recorder
    rule: RowRule  # how many rows linears need
    stock_rows: frozenset[int] = frozenset()  # buckets with PyTorch's attention where ours could run
    failure: str | None = None  # why nothing is captured any more

    @classmethod
    def of(cls, decoder: Decoder, linears: Linears, device: torch.device) -> Captured | None:
        """A decoder that is captured; None where nothing records, or where layers differ in shape."""
        recorder = recorder_for(device)
        shapes = {(part.attention.kv_heads, part.attention.width) for part in decoder.layers}
        if recorder is None or len(shapes) > 1:
            return None
        size = len(decoder.layers), *shapes.pop()
        slabs = Slabs(size, linears.dtype, device)
        return cls(decoder, slabs, recorder, linears.rule)

    @torch.no_grad()
    def forward(self, now: Pass, keep: int) -> Tensor | None:
        """As `Executor.forward`; None for a pass that cannot be captured."""
        count = len(now.host.tokens)
        if now.whole_prompt or (keep and count > ROWS[-1]):
            return None  # a prompt, which is faster in one piece
        layout = MaskLayout.of(now) if self._knows(now) else None
        if layout is not None:
            self._note_lost_bits(now)
        logits, queries = [], []
        for begin in range(0, count, ROWS[-1]):
            graph = self._graph(now, layout, begin) if self._knows(now) else None
            if graph is None:
                self._note_lost_bits(now)
                return None
            graph.replay()
            rows = slice(count - keep if keep else 0, count - begin)
            logits.append(graph.logits[rows].clone())
            if graph.queries is not None:
                queries.append(graph.queries[:, : count - begin].clone())
        if layout is not None and queries:
            _log_queries(now, layout, queries)
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _knows(self, now: Pass) -> bool:
        """Whether graphs can run a pass: all layers hold rows, and paths are short enough."""
        cache = now.cache
        whole = len(cache.initialized) == len(cache.layers)
        # Masks of a drafter that shares the rows of a target whose heads hold different ones.
        by_head = not cache.scored and any(table.heads > 1 for table in cache.tables)
        short = now.deepest - cache.length < DEEPEST
        return self.failure is None and whole and short and not by_head

    @staticmethod
    def _note_lost_bits(now: Pass) -> None:
        """Note a pass whose bits depend on what its request has evicted, or on other kernels."""
        now.cache.captured &= not now.eviction.clock.started

    def _graph(self, now: Pass, layout: MaskLayout | None, begin: int) -> Graph | None:
        """The graph for a pass's rows from `begin` on, with their numbers in its inputs."""
        counts = [table.count for table in now.cache.tables]
        slab = now.cache.take_slab(max(counts) + now.cache.scratch)
        host = now.host.part(begin, ROWS[-1])
        rows = self.bucket(len(host.tokens))
        furthest = power_of_two(max(now.deepest + 1, slab.room)) - 1
        tables = tuple(table.upto(furthest) for table in self.decoder.rotary.values())
        graph: Graph | None = slab.graphs.get((rows, layout))
        if graph is None or any(a is not b for a, b in zip(graph.tables, tables, strict=True)):
            device, masks = slab.buffer.device, None
            if layout is not None:
                _, _, heads, capacity, _ = slab.buffer.shape
                masks = GraphMasks.empty(layout, rows, capacity, heads, device)
                masks.fill(now, begin)
            inputs = GraphInputs.empty(rows, device, 0 if layout is None else len(layout.scored))
            inputs.fill(host, counts, slab.room)  # recording runs the pass
            graph = self._capture(slab, inputs, masks, tables)
            if graph is not None:
                slab.graphs[rows, layout] = graph
                now.cache.graphs_captured += 1
        else:
            if graph.masks is not None:
                graph.masks.fill(now, begin)
            graph.inputs.fill(host, counts, slab.room)
        return graph

    def bucket(self, count: int) -> int:
        """How many rows the graph for `count` rows has."""
        padded = self.rule.padded(count)
        return next(size for size in ROWS if size >= padded)

    def rows(self, slab: Slab, inputs: GraphInputs, masks: GraphMasks | None = None) -> GraphRows:
        """The rows of a pass over a slab, as layers see them."""
        angles = {kind: table.tables for kind, table in self.decoder.rotary.items()}
        stock = inputs.rows in self.stock_rows
        return GraphRows(slab, inputs, angles, self.recorder, masks, stock)

    @property
    def attends(self) -> bool:
        """Whether our attention can run: Triton is here, and some layer weighs by scores alone."""
        like = torch.empty(0, dtype=self.slabs.dtype, device=self.slabs.device)
        configs = (layer.attention.config for layer in self.decoder.layers)
        return runs(like) and any(config.by_scores_alone for config in configs)

    @property
    def attention(self) -> str:
        """Whose attention graphs hold, and for which buckets of rows."""
        if not self.attends:
            return "PyTorch's attention"
        stock = ", ".join(map(str, sorted(self.stock_rows)))
        return f"our attention, but PyTorch's for {stock} rows" if stock else "our attention"

    @torch.inference_mode(False)  # the slab outlives a caller's inference mode
    @torch.no_grad()
    def chain_graph(self, tokens: list[int], after: int = 0) -> Graph | None:
        """A captured pass of N tokens, each after the one before, at positions 0 … N−1, in a cache
        of `after` rows of zeros; None where capturing fails. It is there to be timed, and compared with
        the module's."""
        count = len(tokens)
        rows = self.bucket(count)
        holder = Nobody()
        holder.slab = slab = self.slabs.take(holder, after + count)  # a lack of memory frees others
        key = "chain", after, count, rows, self.stock_rows
        if key not in slab.graphs:
            inputs = GraphInputs.empty(rows, slab.buffer.device)
            inputs.fill(HostRows.chain(tokens), [after], slab.room)
            tables = tuple(table.upto(slab.room) for table in self.decoder.rotary.values())
            slab.graphs[key] = self._capture(slab, inputs, None, tables)
        graph: Graph | None = slab.graphs[key]
        return graph

    def _capture(
        self,
        slab: Slab,
        inputs: GraphInputs,
        masks: GraphMasks | None,
        tables: tuple[object, ...],
    ) -> Graph | None:
        """Capture a pass over a slab; None where that fails. Raises `OutOfMemoryError` as passes do."""
        decoder = self.decoder
        queries: list[Tensor | None] = []

        def run() -> Tensor:
            rows = self.rows(slab, inputs, masks)
            hidden = decoder.hidden(inputs.column(0), inputs.column(1), rows)
            queries[:] = [torch.stack(rows.queries)] if rows.queries else [None]
            return decoder.logits(*hidden)

        try:
            with without_cudnn:  # whoever captures
                replay, logits = try_twice(partial(self.recorder.record, run), self.slabs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]
            self.failure = f"{type(error).__name__}: {first_line}"
            return None
        return Graph(inputs, replay, logits, tables, masks, *queries)


def _log_queries(now: Pass, layout: MaskLayout, queries: list[Tensor]) -> None:
    """Log a pass's queries [layers, N, H, D], which graphs gave in parts."""
    whole = queries[0] if len(queries) == 1 else torch.cat(queries, 1)
    layers = compress(now.cache.layers, layout.logged)
    for layer, part in zip(layers, whole.transpose(1, 2), strict=True):
        layer.log(part)
