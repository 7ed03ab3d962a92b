"""A whole step as one graph, for a shaper whose trees always have the same shape.

The graph drafts the tree level by level, verifies it, and makes the rows of the accepted path the first
scratch rows of both models, so that a commit has nothing left to move. One copy takes it what it reads:
the cached length L, the last cached token and the root. All else that a pass reads, it computes from L:
each number is a constant, or grows by one with L. One copy brings back what it found.
"""

from __future__ import annotations

from collections import Counter
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
from toolkit.runtime.kernels.triton.move_rows import move_rows
from toolkit.runtime.kernels.triton.top_tokens import top_tokens
from toolkit.runtime.kv.slab import Slab
from toolkit.runtime.models.load import LoadedModel
from toolkit.runtime.session import ModelSession
from toolkit.sampling import Sampling
from toolkit.transfer import fetch, send
from toolkit.tree import Candidates, TokenTree, ancestor_mask, lineage


def static_step_of(
    target: ModelSession, strategies: Strategies, sampling: Sampling
) -> StaticStep | str:
    """What runs a request's steps as one graph each, or why they run pass by pass."""
    if reason := reason_not_whole(target.model):
        return reason
    if not sampling.greedy or strategies.verifier.name != "greedy":
        return "only verifier greedy at temperature 0 runs on the GPU"
    shape, draft = strategies.shaper.shape, strategies.drafter.draft_session
    if shape is None:
        return f"the trees of shaper {strategies.shaper.name} differ in shape"
    if not isinstance(draft, DraftSession) or not isinstance(draft.session, ModelSession):
        return f"drafter {strategies.drafter.name} does not draft with a model's own session"
    if not 1 < len(shape) <= ROWS[-1] or max(shape.depths) + 2 > DEEPEST:
        return f"a tree of {len(shape)} nodes, {max(shape.depths)} deep, is too large for a graph"
    if max(map(len, shape.children)) > MOST:
        return f"a node has more than {MOST} children"
    session = draft.session
    if target.model.device != session.model.device:
        return "the models are on different devices"
    if target.cache.scored or session.cache.scored:
        return "a KV policy scores rows"
    if reason := reason_not_whole(session.model):
        return f"drafter: {reason}"
    return StaticStep(target, draft, session, shape, captured_of(target), captured_of(session))


def reason_not_whole(model: LoadedModel) -> str | None:
    """Why no graph can be a whole step of a model; None where one can."""
    executor = model.executor
    if not isinstance(executor, FunctionalExecutor) or executor.captured is None:
        return "no pass runs as a CUDA graph"
    if model.wanted != "auto":
        return f"executor {model.wanted} was asked for"
    if executor.captured.failure is not None:
        return f"capturing failed: {executor.captured.failure}"
    return "layers have sliding windows of their own" if any(model.windows) else None


def captured_of(session: ModelSession) -> Captured:
    """What captures a session's passes, where `reason_not_whole` is None."""
    executor = session.model.executor
    assert isinstance(executor, FunctionalExecutor) and executor.captured is not None  # noqa: S101, PT018
    return executor.captured


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
class AcceptedPath:
    """Finds the path of tokens that the target chose, in trees of one shape with N nodes."""

    parents: Tensor  # [N], 0 at the root
    beside: Tensor  # bool [N, N]: which nodes are not on each node's path
    at_depth: Tensor  # bool [N, N]: which nodes have each depth; none from the last depth on
    nodes: Tensor  # int32 [N]: 0, 1, …

    @classmethod
    def of(cls, shape: GrowMap, device: torch.device) -> AcceptedPath:
        """The paths of a shape, on a device."""
        nodes = torch.arange(len(shape), dtype=torch.int32)
        beside = ~ancestor_mask(lineage(list(shape.parents)), 0)
        at_depth = torch.tensor(shape.depths) == nodes[:, None]
        return cls(*send(device, torch.tensor(shape.parents).clamp(min=0), beside, at_depth, nodes))

    def find(self, tokens: Tensor, choices: Tensor) -> Tensor:
        """The accepted node of each depth d < N: int32 [N]; d itself where there is none. `tokens[N]`
        are the tree's and `choices[N]` the target's, each after its node."""
        equal = (tokens == choices.index_select(0, self.parents)) | (self.nodes == 0)
        accepted = (equal | self.beside).all(1)
        found = torch.where(self.at_depth & accepted, self.nodes, -1).amax(1)
        return torch.where(found < 0, self.nodes, found)


@frozen(eq=False)
class StepGraph:
    """A captured step."""

    state: Tensor  # int32 [3]: L, the last cached token, the root
    replay: Callable[[], None]
    found: Tensor  # int32 [5, N]: tokens, the target's choices, bits of logprobs and margins, path
    logits: Tensor  # [N, V], the target's
    reads: tuple[object, ...]  # what lies where the graph expects it: buffers and tables
    inputs: tuple[object, ...]  # what else it reads: a recording does not keep tensors alive


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
    count: int = 0  # steps that ran as one graph
    obstacles: Counter[str] = field(factory=Counter)  # why how many others did not
    depth: int = field(init=False)
    _forwarded: int = field(init=False)  # by the draft model: the nodes above the deepest

    def __attrs_post_init__(self) -> None:
        depths = self.shape.depths
        self.depth = max(depths)
        self._forwarded = depths.index(self.depth)

    @torch.no_grad()
    def run(self, committed: list[int], depth: int) -> Verified | None:
        """Draft and verify a tree on the last of `committed` tokens, whose keys and values are not
        cached yet; None where the step does not fit: a tree that is not `depth` deep, or no room."""
        length, pending = self.target.length, self.draft.pending
        if reason := self._obstacle(length, depth):
            self.obstacles[reason] += 1
            return None
        (state,) = send(
            self.target.model.device, torch.tensor([length, *committed[-2:]], dtype=torch.int32)
        )
        graph = self._graph(length, state)
        if graph is None:
            self.obstacles[f"capturing failed: {self.failure}"] += 1
            return None
        graph.state.copy_(state)
        graph.replay()
        (found,) = fetch(graph.found)
        tokens, choices, *_, path = found.tolist()
        logprobs, margins = found[2:4].view(torch.float32).tolist()
        tree = self._tree(tokens, logprobs)
        if len(tree) < len(self.shape):
            self.obstacles["tokens of probability 0 are not drafted"] += 1
            return None
        self.count += 1
        path = path[: self.depth + 1]
        self.target.cache.extend(len(tree), placed=path)
        placed = [*range(pending), *(pending + node for node in path[:-1])]
        self.session.cache.extend(pending + self._forwarded, placed=placed)
        self.draft.note_forwarded(tree, self._forwarded)
        return Verified(tree, graph.logits, (choices, margins))

    def _obstacle(self, length: int, depth: int) -> str | None:
        """Why a step after `length` tokens, at most `depth` deep, cannot run as one graph."""
        if failure := self.failure or self.verifies.failure or self.drafts.failure:
            return f"capturing failed: {failure}"
        furthest, both = length + self.depth, (self.target, self.session)
        if self.draft.pending > 1 or self.draft.root_position != length:
            return "the drafter has more than one token to read"
        if any(s.eviction.hides(furthest) or s.cache.rows != s.length for s in both):
            return "a KV policy hides rows"
        if depth < self.depth or furthest >= min(session.positions for session in both):
            return "the end of the request cuts the tree"
        return None

    @property
    def description(self) -> str:
        """How many steps ran as one graph, and why the others did not."""
        others = [f"{n} pass by pass, because {why}" for why, n in self.obstacles.items()]
        return "; ".join([f"{self.count} steps as one graph each", *others])

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
        rows = length + len(self.shape)
        ours, drafts = (s.cache.take_slab(rows) for s in (self.target, self.session))
        last = power_of_two(max(furthest + 1, ours.room, drafts.room)) - 1
        decoders = self.verifies.decoder, self.drafts.decoder
        tables = [table.upto(last) for decoder in decoders for table in decoder.rotary.values()]
        reads = (ours.buffer, drafts.buffer, *tables)
        key = "step", self.shape, self.drafts
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
        path_of = AcceptedPath.of(shape, device)
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
                level = ids.flatten().index_select(0, chosen).clamp(min=0)  # −1 for logits of NaN
                tokens.append(level)
                logprobs.append((values - sums[:, None]).flatten().index_select(0, chosen))
            drafted = torch.cat(tokens)
            judged = verify.run(self.verifies, ours, length, drafted)[:count]
            logits[:] = [judged]
            values, choices, _ = top_tokens(judged, 2)
            path = path_of.find(drafted, choices[:, 0])
            rows = path[: self.depth + 1] + length
            for slab in (ours, drafts):  # the drafter commits no row of the deepest level
                move_rows(slab.buffer.flatten(0, 1), rows, length)
            floats = torch.stack([torch.cat(logprobs), values[:, 0] - values[:, 1]])
            return torch.stack([drafted, choices[:, 0], *floats.view(torch.int32), path])

        try:
            replay, found = self.verifies.recorder.record(run)
        except RuntimeError as error:
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None
        return StepGraph(state, replay, found, logits[0], reads, (levels, verify, path_of))
