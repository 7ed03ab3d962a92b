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
from toolkit.runtime.compute.attention import Rows
from toolkit.runtime.compute.executors.captured import ROWS, Captured, GraphInputs, GraphRows
from toolkit.runtime.kernels.triton.move_rows import move_rows
from toolkit.runtime.kernels.triton.top_tokens import top_tokens
from toolkit.runtime.kv.slab import Slab
from toolkit.transfer import Slot, send
from toolkit.tree import ancestor_mask, lineage


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
    given: Tensor  # for each of the graph's rows, which token it reads: padding reads the last

    @classmethod
    def of(cls, model: Model, paths: list[bytes], nodes: int, ahead: int = 0) -> Part:
        """The pass of the last `nodes` of the scratch rows with these `paths`, as `lineage` has them;
        the first scratch row has position L − `ahead`."""
        slab = model.slab
        device = slab.buffer.device
        padded = model.captured.rule.padded(nodes)
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
        given = torch.arange(rows).clamp(max=nodes - 1)
        return cls(GraphInputs.empty(rows, device), *send(device, made[0] - slope, slope, given))

    def run(self, model: Model, length: Tensor, tokens: Tensor) -> Tensor:
        """Logits [M, V] after `tokens[N]`, at the cached length `length[1]`."""
        inputs, decoder = self.inputs, model.captured.decoder
        column = inputs.column(0)
        torch.addcmul(self.base, self.slope, length, out=inputs.packed)
        torch.index_select(tokens, 0, self.given, out=column)
        angles = {kind: table.tables for kind, table in decoder.rotary.items()}
        rows = GraphRows(model.slab, inputs, angles, model.captured.recorder)
        return decoder.logits(*decoder.hidden(column, inputs.column(1), rows))


@frozen(eq=False)
class Level:
    """A pass of the drafter, and the children that it gives the nodes of one depth."""

    part: Part
    nodes: int  # of this depth
    most: int  # children of a node
    chosen: Tensor  # of nodes × most candidates, those that become children

    @classmethod
    def of(cls, drafter: Model, shape: GrowMap, depth: int) -> Level:
        """The level below the nodes of a depth. The root's pass forwards the token before it, too."""
        first, end = (shape.depths.index(d) for d in (depth, depth + 1))
        counts = [len(children) for children in shape.children[first:end]]
        most = max(counts)
        below = [row * most + draw for row, count in enumerate(counts) for draw in range(count)]
        paths = lineage(list(shape.parents))[:end] if depth else lineage([-1, 0])
        part = Part.of(drafter, paths, end - first if depth else 2, ahead=0 if depth else 1)
        return cls(part, end - first, most, *send(drafter.slab.buffer.device, torch.tensor(below)))

    def run(
        self, drafter: Model, length: Tensor, tokens: Tensor, known: int
    ) -> tuple[Tensor, Tensor]:
        """The tokens of the children, below `known`, and their log-probabilities, after `tokens`."""
        clamped = tokens.clamp(max=drafter.vocabulary - 1)
        logits = self.part.run(drafter, length, clamped)[: len(tokens), :known]
        values, ids, sums = top_tokens(logits[-self.nodes :], self.most)
        logprobs = (values - sums[:, None]).flatten().index_select(0, self.chosen)
        return ids.flatten().index_select(0, self.chosen).clamp(min=0), logprobs  # −1: logits of NaN


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

    def find(self, tokens: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        """The accepted node of each depth d < N: int32 [N]; d itself where there is none. And their
        number [1], root included. `tokens[N]` are the tree's and `choices[N]` the target's, each after
        its node."""
        equal = (tokens == choices.index_select(0, self.parents)) | (self.nodes == 0)
        accepted = (equal | self.beside).all(1)
        found = torch.where(self.at_depth & accepted, self.nodes, -1).amax(1)
        none = found < 0
        return torch.where(none, self.nodes, found), (~none).sum(0, keepdim=True, dtype=torch.int32)


@frozen(eq=False)
class StepGraph:
    """A captured step."""

    state: Tensor  # int32 [3]: L, the last cached token, the root
    replay: Callable[[], None]
    found: Tensor  # int32 [5 · N + 3]: as `Found` has it, and the next step's state
    logits: Tensor  # [N, V], the target's
    reads: tuple[object, ...]  # what lies where the graph expects it: buffers and tables
    inputs: tuple[object, ...]  # what else it reads: a recording does not keep tensors alive
    slots: Iterator[Slot] = field(init=False)  # two, in turn: one is read while the other is written

    def __attrs_post_init__(self) -> None:
        slots = cycle([Slot.like(self.found), Slot.like(self.found)])
        object.__setattr__(self, "slots", slots)

    @property
    def following(self) -> Tensor:
        """The state of the step after the one that runs last."""
        return self.found[-3:]

    def start(self, state: Tensor) -> Slot:
        """Run a step from `state`, which may be `following`; where to fetch what it finds."""
        slot = next(self.slots)
        self.state.copy_(state)
        slot.ask(self.replay, self.found)
        return slot


@frozen(eq=False)
class Found:
    """What a step found, on the host."""

    tokens: list[int]  # [N], the tree's
    choices: list[int]  # [N], the target's tokens after each node
    logprobs: list[float]  # [N], the drafter's
    margins: list[float]  # [N], of the target's choices
    path: list[int]  # [N], the accepted nodes, and then those that lie where they are
    following: list[int]  # the next step's state

    @classmethod
    def of(cls, packed: Tensor) -> Found:
        """From what a graph's slot has."""
        n = (len(packed) - 3) // 5
        ints, floats = packed.tolist(), packed[2 * n : 4 * n].view(torch.float32).tolist()
        return cls(ints[:n], ints[n : 2 * n], floats[:n], floats[n:], ints[4 * n : -3], ints[-3:])




def capture_step(
    models: Sequence[Model], shape: GrowMap, reads: tuple[object, ...], state: Tensor
) -> StepGraph:
    """Capture a step of the target and, where the tree has more than its root, the draft model.

    Capturing runs the step, so `state` is what it starts from, and stays its input. Raises
    `RuntimeError` for what cannot be captured.
    """
    target, drafter = models[0], models[-1]
    device, depth = state.device, max(shape.depths)
    levels = [Level.of(drafter, shape, above) for above in range(depth)]
    verify = Part.of(target, lineage(list(shape.parents)), len(shape))
    path_of = AcceptedPath.of(shape, device)
    known = min(model.vocabulary for model in models)
    logits: list[Tensor] = []

    def run() -> Tensor:
        length, level = state[:1], state[2:]
        tokens, logprobs = [level], [torch.zeros(1, device=device)]
        for above, each in enumerate(levels):
            level, found = each.run(drafter, length, level if above else state[1:], known)
            tokens.append(level)
            logprobs.append(found)
        drafted = torch.cat(tokens)
        judged = verify.run(target, length, drafted)[: len(shape)]
        logits[:] = [judged]
        values, choices, _ = top_tokens(judged, 2)
        chosen = choices[:, 0]
        path, count = path_of.find(drafted, chosen)
        end = path.index_select(0, count - 1)
        root = chosen.index_select(0, end).clamp(min=0)  # −1 for logits of NaN
        following = length + count, drafted.index_select(0, end), root
        if depth + 1 < len(shape):  # the path of a chain lies first
            rows = path[: depth + 1] + length
            for model in models:  # the drafter commits no row of the deepest level
                move_rows(model.slab.buffer.flatten(0, 1), rows, length)
        floats = torch.stack([torch.cat(logprobs), values[:, 0] - values[:, 1]])
        bits = floats.view(torch.int32).flatten()
        return torch.cat([drafted, chosen, bits, path, *following])

    replay, found = target.captured.recorder.record(run)
    return StepGraph(state, replay, found, logits[0], reads, (levels, verify, path_of))
