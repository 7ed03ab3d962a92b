"""A whole step as one graph, for a shaper whose trees always have the same shape.

The graph drafts the tree level by level, verifies it, and ends with one copy to the host. Its inputs
are the cached length L, the last cached token and the root. All else that a pass reads, it computes
from L: each number is a constant, or grows by one with L.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import define, field, frozen
from torch import Tensor

from toolkit.draft_session import DraftSession
from toolkit.engine import Strategies, Verified
from toolkit.growmap import GrowMap
from toolkit.likeliest import MOST
from toolkit.runtime.compute.attention import Rows
from toolkit.runtime.compute.executors.captured import (
    DEEPEST,
    ROWS,
    Captured,
    GraphInputs,
    GraphRows,
)
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.kernels.triton.jit import power_of_two
from toolkit.runtime.kernels.triton.top_tokens import top_tokens
from toolkit.runtime.kv.slab import Slab
from toolkit.runtime.session import ModelSession
from toolkit.sampling import Sampling
from toolkit.transfer import fetch, send
from toolkit.tree import Candidates, TokenTree, ancestor_mask, lineage


def static_step_of(
    target: ModelSession, strategies: Strategies, sampling: Sampling
) -> StaticStep | None:
    """What runs a request's steps as one graph each; None where the general loop must run them."""
    shape, draft = strategies.shaper.shape, strategies.drafter.draft_session
    greedy = sampling.greedy and strategies.verifier.name == "greedy"
    if not greedy or shape is None or not isinstance(draft, DraftSession):
        return None
    session, most = draft.session, max(map(len, shape.children))
    if not isinstance(session, ModelSession) or not 1 < len(shape) <= ROWS[-1] or most > MOST:
        return None
    verifies, drafts = _captured(target), _captured(session)
    if verifies is None or drafts is None or max(shape.depths) + 2 > DEEPEST:
        return None
    if target.model.device != session.model.device:
        return None
    return StaticStep(target, draft, session, shape, verifies, drafts)


def _captured(session: ModelSession) -> Captured | None:
    """What captures a session's passes, where no layer hides rows."""
    executor = session.model.executor
    if not isinstance(executor, FunctionalExecutor) or session.cache.scored:
        return None
    return None if any(session.model.windows) else executor.captured


@frozen(eq=False)
class Part:
    """A pass of a graph over some nodes: its inputs at any cached length L."""

    inputs: GraphInputs
    base: Tensor  # the inputs at L = 0
    slope: Tensor  # by how much each grows with L

    @classmethod
    def of(
        cls, captured: Captured, slab: Slab, paths: list[bytes], nodes: int, ahead: int = 0
    ) -> Part:
        """The pass of the last `nodes` of the scratch rows with these `paths`, as `lineage` has them;
        the first scratch row has position L − `ahead`."""
        device = slab.buffer.device
        padded = captured.rule.padded(nodes)
        rows = next(size for size in ROWS if size >= padded)
        depths = torch.tensor([row.count(1) - 1 for row in paths])
        mask = ancestor_mask(paths, len(paths) - nodes)
        made = []
        for length in (1, 2):
            inputs = GraphInputs.empty(rows, torch.device("cpu"))
            first = length - ahead
            host = Rows(torch.zeros(nodes, dtype=torch.long), first + depths, mask)
            inputs.fill(host, [first], slab.room)
            made.append(inputs.packed)
        slope = made[1] - made[0]
        base, slope = send(device, made[0] - slope, slope)
        return cls(GraphInputs.empty(rows, device), base, slope)

    def run(self, captured: Captured, slab: Slab, length: Tensor, tokens: Tensor) -> Tensor:
        """Logits [M, V] after `tokens[N]`, at the cached length `length[1]`."""
        inputs = self.inputs
        inputs.packed.copy_(self.base + self.slope * length)
        column = inputs.column(0)
        column.copy_(torch.cat([tokens, tokens[-1:].expand(inputs.rows - len(tokens))]))
        angles = {kind: table.tables for kind, table in captured.decoder.rotary.items()}
        rows = GraphRows(slab, inputs, angles)
        return captured.decoder.logits(*captured.decoder.hidden(column, inputs.column(1), rows))


@frozen(eq=False)
class StepGraph:
    """A captured step."""

    state: Tensor  # int32 [3]: L, the last cached token, the root
    replay: Callable[[], None]
    found: Tensor  # int32 [4, N]: tokens, the target's choices, and bits of logprobs and margins
    logits: Tensor  # [N, V], the target's
    reads: tuple[object, ...]  # what lies where the graph expects it: slabs and tables


@define(eq=False)
class StaticStep:
    """Drafts and verifies trees of one shape. Commits are the sessions' own."""

    target: ModelSession
    draft: DraftSession
    session: ModelSession  # the draft's
    shape: GrowMap
    verifies: Captured
    drafts: Captured
    failure: str | None = None  # why steps are not captured; passes may be
    depth: int = field(init=False)
    _forwarded: int = field(init=False)  # nodes that the draft model forwards: all above the deepest

    def __attrs_post_init__(self) -> None:
        depths = self.shape.depths
        self.depth = max(depths)
        self._forwarded = depths.index(self.depth)

    @torch.no_grad()
    def run(self, committed: list[int], depth: int) -> Verified | None:
        """Draft and verify a tree on the last of `committed` tokens, whose keys and values are not
        cached yet; None where the step does not fit: a tree that is not `depth` deep, or no room."""
        length, pending = self.target.length, self.draft.pending
        fits = depth >= self.depth and pending <= 1 and self.draft.root_position == length
        furthest = length + self.depth
        if not fits or furthest >= min(self.session.positions, self.target.positions):
            return None
        if any(s.eviction.hides(furthest) for s in (self.target, self.session)):
            return None
        (state,) = send(
            self.target.model.device, torch.tensor([length, *committed[-2:]], dtype=torch.int32)
        )
        graph = self._graph(length, state)
        if graph is None:
            return None
        graph.state.copy_(state)
        graph.replay()
        (found,) = fetch(graph.found)
        tokens, choices = found[:2].tolist()
        logprobs, margins = found[2:].view(torch.float32).tolist()
        tree = self._tree(tokens, logprobs)
        if len(tree) < len(self.shape):
            return None  # tokens of probability 0 are not drafted
        self.target.cache.extend(len(tree))
        self.session.cache.extend(pending + self._forwarded)
        self.draft.note_forwarded(tree, self._forwarded)
        return Verified(tree, graph.logits, (choices, margins))

    def _tree(self, tokens: list[int], logprobs: list[float]) -> TokenTree:
        tree = TokenTree.root(tokens[0])
        for node, children in enumerate(self.shape.children):
            if children and node < len(tree):
                ids, values = [tokens[c] for c in children], [logprobs[c] for c in children]
                tree = tree.grow([node], Candidates([ids], [values]))
        return tree

    def _graph(self, length: int, state: Tensor) -> StepGraph | None:
        """The graph of a step; captured anew where buffers or tables have moved."""
        furthest = length + self.depth
        if any((self.failure, self.verifies.failure, self.drafts.failure)):
            return None
        rows = length + len(self.shape)
        ours, drafts = (s.cache.take_slab(rows) for s in (self.target, self.session))
        last = power_of_two(max(furthest + 1, ours.room, drafts.room)) - 1
        decoders = self.verifies.decoder, self.drafts.decoder
        tables = [table.upto(last) for decoder in decoders for table in decoder.rotary.values()]
        reads = (ours, drafts, *tables)
        key = "step", self.shape
        graph: StepGraph | None = ours.graphs.get(key)
        if graph is None or any(a is not b for a, b in zip(graph.reads, reads, strict=True)):
            graph = self._capture(ours, drafts, reads, state.clone())
            if graph is not None:
                ours.graphs[key] = graph
        return graph

    def _capture(
        self, ours: Slab, drafts: Slab, reads: tuple[object, ...], state: Tensor
    ) -> StepGraph | None:
        """Capture a step over the target's slab and the drafter's; None where that fails. Capturing
        runs the step, so `state` is what it starts from, and stays its input."""
        device, count, shape = ours.buffer.device, len(self.shape), self.shape
        paths, children = lineage(list(shape.parents)), shape.children
        verify = Part.of(self.verifies, ours, paths, count)
        levels: list[tuple[Part, int, int, Tensor]] = []
        first = 0
        for depth in range(self.depth):
            end = shape.depths.index(depth + 1)
            counts = [len(children[node]) for node in range(first, end)]
            most = max(counts)
            below = [row * most + draw for row, n in enumerate(counts) for draw in range(n)]
            if depth:
                part = Part.of(self.drafts, drafts, paths[:end], end - first)
            else:
                part = Part.of(self.drafts, drafts, lineage([-1, 0]), 2, ahead=1)
            (chosen,) = send(device, torch.tensor(below))
            levels.append((part, end - first, most, chosen))
            first = end
        logits: list[Tensor] = []
        vocabulary, last = self.draft.vocabulary, self.session.vocabulary - 1

        def run() -> Tensor:
            length, level = state[:1], state[2:]
            tokens, logprobs = [level], [torch.zeros(1, device=device)]
            for at, (part, nodes, k, chosen) in enumerate(levels):
                given = level if at else state[1:]
                found = part.run(self.drafts, drafts, length, given.clamp(max=last))
                begin = 0 if at else 1
                values, ids, sums = top_tokens(found[begin : begin + nodes, :vocabulary], k)
                level = ids.flatten().index_select(0, chosen)
                tokens.append(level)
                logprobs.append((values - sums[:, None]).flatten().index_select(0, chosen))
            drafted = torch.cat(tokens)
            judged = verify.run(self.verifies, ours, length, drafted)[:count]
            logits[:] = [judged]
            values, choices, _ = top_tokens(judged, 2)
            floats = torch.stack([torch.cat(logprobs), values[:, 0] - values[:, 1]])
            return torch.cat([torch.stack([drafted, choices[:, 0]]), floats.view(torch.int32)])

        try:
            replay, found = self.verifies.recorder.record(run)
        except RuntimeError as error:
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None
        return StepGraph(state, replay, found, logits[0], reads)
