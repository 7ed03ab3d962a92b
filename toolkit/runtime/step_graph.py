"""What the graph of a whole step holds: the drafter's levels, verification, and the move of K/V.

One copy takes it what it reads: the cached length L, the last cached token and the root. All else that
a pass reads, it computes from L: each number is a constant, or grows by one with L. One copy brings
back what it found, and with it what the next step reads, which need not wait for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import torch
from attrs import field, frozen
from torch import Tensor

from toolkit.growmap import GrowMap
from toolkit.runtime.compute.attention import HostRows
from toolkit.runtime.compute.executors.captured import Captured, GraphInputs
from toolkit.runtime.kernels.triton.move_rows import move_rows
from toolkit.runtime.kernels.triton.top_tokens import packed_top_tokens
from toolkit.runtime.kernels.triton.whole_step import Paths, fill_inputs, judge, take_children
from toolkit.runtime.kv.slab import Slab
from toolkit.transfer import Slot, send
from toolkit.tree import ancestor_mask, lineage, pad_rows


@frozen(eq=False)
class Model:
    """A model whose passes a graph runs over a slab."""

    captured: Captured
    slab: Slab
    vocabulary: int


@frozen(eq=False)
class Part:
    """A pass of a graph over some nodes: its inputs at any cached length L."""

    inputs: GraphInputs
    base: Tensor  # the inputs at L = 0
    slope: Tensor  # by how much each grows with L

    @classmethod
    def of(cls, model: Model, paths: list[bytes], nodes: int, ahead: int = 0) -> Part:
        """The pass of the last `nodes` of the scratch rows with these `paths`, as `lineage` has them;
        the first scratch row has position L − `ahead`."""
        slab = model.slab
        device = slab.buffer.device
        rows = model.captured.bucket(nodes)
        depths = [row.count(1) - 1 for row in paths]
        own = pad_rows(paths, len(paths) - nodes)
        made = []
        for length in (1, 2):
            inputs = GraphInputs.empty(rows, torch.device("cpu"))
            first = length - ahead
            host = HostRows([0] * nodes, [first + depth for depth in depths], own)
            inputs.fill(host, [first], slab.room)
            made.append(inputs.packed)
        slope = made[1] - made[0]
        return cls(GraphInputs.empty(rows, device), *send(device, made[0] - slope, slope))

    def run(self, model: Model, length: Tensor, tokens: Tensor) -> Tensor:
        """Logits [M, V] after `tokens[N]`, at the cached length `length[1]`."""
        inputs, decoder = self.inputs, model.captured.decoder
        last = model.vocabulary - 1
        fill_inputs(inputs.packed, self.base, self.slope, length, tokens, inputs.rows, last)
        rows = model.captured.rows(model.slab, inputs)
        return decoder.logits(*decoder.hidden(inputs.column(0), inputs.column(1), rows))


@frozen(eq=False)
class Level:
    """A pass of the drafter, and the children that it gives the nodes of one depth."""

    part: Part
    reads: slice  # of the step's numbers: the tokens that the pass forwards
    nodes: int  # of this depth
    most: int  # children of a node
    chosen: Tensor  # int32: of nodes × most candidates, those that become children

    @classmethod
    def of(cls, drafter: Model, shape: GrowMap, depth: int) -> Level:
        """The level below the nodes of a depth. The root's pass forwards the token before it, too."""
        first, end = (shape.depths.index(d) for d in (depth, depth + 1))
        counts = [len(children) for children in shape.children[first:end]]
        most = max(counts)
        below = [row * most + draw for row, count in enumerate(counts) for draw in range(count)]
        paths = lineage(list(shape.parents))[:end] if depth else lineage([-1, 0])
        reads = slice(2 + first, 2 + end) if depth else slice(1, 3)
        part = Part.of(drafter, paths, reads.stop - reads.start, ahead=0 if depth else 1)
        (chosen,) = send(drafter.slab.buffer.device, torch.tensor(below, dtype=torch.int32))
        return cls(part, reads, end - first, most, chosen)

    def run(self, drafter: Model, step: Tensor, known: int) -> None:
        """Write the children's tokens, which are below `known`, and log-probabilities into a step."""
        tokens = step[self.reads]
        logits = self.part.run(drafter, step[:1], tokens)[: len(tokens), :known]
        top = packed_top_tokens(logits[-self.nodes :], self.most)
        take_children(step, top, self.chosen, self.reads.stop - 2)


def paths_of(shape: GrowMap, device: torch.device) -> Paths:
    """The paths of trees of a shape, on a device."""
    parents, depths = (torch.tensor(each, dtype=torch.int32) for each in (shape.parents, shape.depths))
    beside = ~ancestor_mask(lineage(list(shape.parents)), 0)
    return Paths(*send(device, parents.clamp(min=0), depths, beside.to(torch.int8)))


@frozen(eq=False)
class StepGraph:
    """A captured step."""

    replay: Callable[[], None]
    step: Tensor  # int32 [5 · N + 5]: its numbers, see `kernels/triton/whole_step.py`
    logits: Tensor  # [N, V], the target's
    reads: tuple[object, ...]  # what lies where the graph expects it: buffers and tables
    inputs: tuple[object, ...]  # what else it reads: a recording does not keep tensors alive
    slots: Iterator[Slot] = field(init=False)  # two, in turn: one is read while the other is written

    @slots.default
    def _make_slots(self) -> Iterator[Slot]:
        return cycle([Slot.like(self.step), Slot.like(self.step)])

    @property
    def following(self) -> Tensor:
        """What the step after the one that runs last begins with: int32 [3]."""
        return self.step[-3:]

    def start(self, state: Tensor) -> Slot:
        """Run a step that begins with `state[3]`: L, the last cached token and the root. It may be
        `following`. Returns where to fetch the step's numbers."""
        slot = next(self.slots)
        self.step[:3].copy_(state)
        slot.ask(self.replay, self.step)
        return slot


@frozen(eq=False)
class Found:
    """What a step found, on the host."""

    tokens: list[int]  # [N], the tree's
    choices: list[int]  # [N], the target's tokens after each node
    logprobs: list[float]  # [N], the drafter's
    margins: list[float]  # [N], of the target's choices
    path: list[int]  # [N], the accepted nodes, and then those that lie where they are
    following: list[int]  # what the next step begins with

    @classmethod
    def of(cls, packed: Tensor) -> Found:
        """From a step's numbers."""
        n = (len(packed) - 5) // 5
        ints, floats = packed[2:].tolist(), packed[2 : 2 + 4 * n].view(torch.float32).tolist()
        tokens, choices, path = (ints[part * n : (part + 1) * n] for part in (0, 1, 4))
        return cls(tokens, choices, floats[2 * n : 3 * n], floats[3 * n :], path, ints[5 * n :])


def capture_step(
    models: Sequence[Model], shape: GrowMap, reads: tuple[object, ...], state: Tensor
) -> StepGraph:
    """Capture a step of the target and, where the tree has more than its root, the draft model.

    Capturing runs the step, from `state[3]`. Raises `RuntimeError` for what cannot be captured.
    """
    target, drafter = models[0], models[-1]
    nodes, depth = len(shape), max(shape.depths)
    levels = [Level.of(drafter, shape, above) for above in range(depth)]
    verify, paths = Part.of(target, lineage(list(shape.parents)), nodes), paths_of(shape, state.device)
    known = min(model.vocabulary for model in models)
    step = torch.cat([state, state.new_zeros(5 * nodes + 2)])
    logits: list[Tensor] = []

    def run() -> Tensor:
        for level in levels:
            level.run(drafter, step, known)
        logits[:] = [verify.run(target, step[:1], step[2 : 2 + nodes])[:nodes]]
        judge(step, packed_top_tokens(logits[0], 2), paths)
        if depth + 1 < nodes:  # the path of a chain lies first
            rows = step[2 + 4 * nodes :][: depth + 1] + step[:1]
            for model in models:  # the drafter commits no row of the deepest level
                move_rows(model.slab.buffer.flatten(0, 1), rows, step[:1])
        return step

    replay, _ = target.captured.recorder.record(run)
    return StepGraph(replay, step, logits[0], reads, (levels, verify, paths))
