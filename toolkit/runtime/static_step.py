"""A whole step as one graph, where trees always have the same shape. AR's trees are only their root.

The graph drafts the tree level by level, verifies it, and makes the rows of the accepted path the first
scratch rows of both models, so that a commit has nothing left to move. See `step_graph.py`. Where it
may, a step begins before the host reads what the last one found, so that the device need not wait.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import torch
from attrs import define, field, frozen
from torch import Tensor

from toolkit.draft_session import DraftSession
from toolkit.engine import Strategies, Verified
from toolkit.growmap import GrowMap
from toolkit.likeliest import MOST
from toolkit.runtime.compute.cudnn import without_cudnn
from toolkit.runtime.compute.executors.captured import DEEPEST, ROWS, Captured
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.kernels.triton.jit import power_of_two
from toolkit.runtime.kv.slab import try_twice
from toolkit.runtime.models.load import LoadedModel
from toolkit.runtime.session import ModelSession
from toolkit.runtime.step_graph import Found, Model, StepGraph, capture_step
from toolkit.sampling import Sampling
from toolkit.transfer import Slot, send
from toolkit.tree import Candidates, TokenTree

ROOT = GrowMap([-1])  # the shape of AR's trees


def static_step_of(
    target: ModelSession, strategies: Strategies, sampling: Sampling, *, reads_logits: bool
) -> StaticStep | str:
    """What runs a request's steps as one graph each, or why they run pass by pass. `reads_logits` says
    that somebody reads `Verified.logits`."""
    if reason := reason_not_whole(target.model):
        return reason
    if not sampling.greedy or strategies.verifier.name != "greedy":
        return "only verifier greedy at temperature 0 runs on the GPU"
    if target.cache.scored:
        return "a KV policy scores rows"
    if strategies.drafter.name == "none":
        return StaticStep(ROOT, (target,), reads_logits=reads_logits)
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
    if session.cache.scored:
        return "a KV policy scores rows"
    if reason := reason_not_whole(session.model):
        return f"drafter: {reason}"
    return StaticStep(shape, (target, session), draft, reads_logits=reads_logits)


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
class Ahead:
    """A step that began before it was asked for."""

    graph: StepGraph
    slot: Slot
    state: list[int]  # that it began with


@define(eq=False)
class StaticStep:
    """Drafts and verifies trees of one shape. Commits are the sessions' own."""

    shape: GrowMap
    sessions: tuple[ModelSession, ...]  # the target's, and the draft model's where there is one
    draft: DraftSession | None = None
    reads_logits: bool = field(kw_only=True)
    failure: str | None = None  # why steps are not captured; passes may be
    count: int = 0  # steps that ran as one graph
    count_ahead: int = 0  # those that began before they were asked for
    obstacles: Counter[str] = field(factory=Counter)  # why how many others did not
    depth: int = field(init=False)
    captured: tuple[Captured, ...] = field(init=False)  # of the sessions
    _forwarded: int = field(init=False)  # by the draft model: the nodes above the deepest
    _ahead: Ahead | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        depths = self.shape.depths
        self.depth = max(depths)
        self._forwarded = depths.index(self.depth)
        self.captured = tuple(map(captured_of, self.sessions))

    @torch.inference_mode(False)  # graphs outlive a caller's inference mode
    @torch.no_grad()
    def run(self, committed: list[int], depth: int) -> Verified | None:
        """Draft and verify a tree on the last of `committed` tokens, whose keys and values are not
        cached yet; None where the step does not fit: a tree that is not `depth` deep, or no room."""
        target, ahead = self.sessions[0], self._ahead
        self._ahead = None
        length = target.length
        if reason := self._obstacle(length, depth):
            self.obstacles[reason] += 1
            return None
        state = [length, *committed[-2:]]
        graph = self._graph(state)
        if graph is None:
            self.obstacles[f"capturing failed: {self.failure}"] += 1
            return None
        if ahead is not None and (ahead.graph is not graph or ahead.state != state):
            ahead = None
        slot = graph.start(self._send(state)) if ahead is None else ahead.slot
        next_slot = graph.start(graph.following) if self._may_run_ahead(length, depth) else None
        found = Found.of(slot.fetch())
        tree = self._tree(found)
        if len(tree) < len(self.shape):  # what began ahead is dropped: passes overwrite its rows
            self.obstacles["tokens of probability 0 are not drafted"] += 1
            return None
        if next_slot is not None:
            self._ahead = Ahead(graph, next_slot, found.following)
        self.count += 1
        self.count_ahead += ahead is not None
        path = found.path[: self.depth + 1]
        target.cache.extend(len(tree), placed=path)
        if self.draft is not None:
            pending = self.draft.pending
            placed = [*range(pending), *(pending + node for node in path[:-1])]
            self.sessions[1].cache.extend(pending + self._forwarded, placed=placed)
            self.draft.note_forwarded(tree, self._forwarded)
        logits = graph.logits if next_slot is None else graph.logits.to("meta")
        known = found.choices, found.margins
        return Verified(tree, logits, known, 0.0 if ahead is None else slot.device_ms)

    def _send(self, state: list[int]) -> Tensor:
        """A step's state on the device."""
        (sent,) = send(self.sessions[0].model.device, torch.tensor(state, dtype=torch.int32))
        return sent

    def _may_run_ahead(self, length: int, depth: int) -> bool:
        """Whether the next step may begin before the host knows what the one after `length` tokens has
        found: not where that one's logits are read, which it would overwrite, nor where it may not fit.

        Whatever this step commits, the next one writes behind that. If the request ends here it is
        dropped: its rows are scratch rows, and no session and no drafter has heard of it. What the
        device does for a later request comes after it.
        """
        most = self.depth + 1
        return not self.reads_logits and self._misfit(length + most, depth - most) is None

    def _obstacle(self, length: int, depth: int) -> str | None:
        """Why a step after `length` tokens, at most `depth` deep, cannot run as one graph."""
        if failure := self.failure or next(filter(None, (c.failure for c in self.captured)), None):
            return f"capturing failed: {failure}"
        draft = self.draft
        if draft is not None and (draft.pending > 1 or draft.root_position != length):
            return "the drafter has more than one token to read"
        if any(session.cache.rows != session.length for session in self.sessions):
            return "a KV policy hides rows"
        return self._misfit(length, depth)

    def _misfit(self, length: int, depth: int) -> str | None:
        """Why a step after `length` tokens, at most `depth` deep, does not fit into the request."""
        furthest = length + self.depth
        if any(session.eviction.hides(furthest) for session in self.sessions):
            return "a KV policy hides rows"
        if depth < self.depth or furthest >= min(session.positions for session in self.sessions):
            return "the end of the request cuts the tree"
        return None

    @property
    def description(self) -> str:
        """How many steps ran as one graph, and why the others did not."""
        others = [f"{n} pass by pass, because {why}" for why, n in self.obstacles.items()]
        ahead = f", {self.count_ahead} of them ahead of the host" if self.count_ahead else ""
        return "; ".join([f"{self.count} steps as one graph each{ahead}", *others])

    def _tree(self, found: Found) -> TokenTree:
        tree = TokenTree.root(found.tokens[0])
        for node, children in enumerate(self.shape.children):
            if children and node < len(tree):
                ids, values = [found.tokens[c] for c in children], [found.logprobs[c] for c in children]
                tree = tree.grow([node], Candidates([ids], [values]))
        return tree

    def _graph(self, state: list[int]) -> StepGraph | None:
        """The graph of a step, with room for the one after it; captured anew where buffers or tables
        have moved. None where that fails."""
        rows = state[0] + self.depth + 1 + len(self.shape)
        slabs = [session.cache.take_slab(rows) for session in self.sessions]
        last = power_of_two(max(slab.room for slab in slabs)) - 1
        tables = [t.upto(last) for c in self.captured for t in c.decoder.rotary.values()]
        reads = (*(slab.buffer for slab in slabs), *tables)
        graphs, key = slabs[0].graphs, ("step", self.shape, self.captured[1:])
        graph: StepGraph | None = graphs.get(key)
        if graph is None or any(a is not b for a, b in zip(graph.reads, reads, strict=True)):
            parts = zip(self.captured, slabs, self.sessions, strict=True)
            models = [Model(captured, slab, s.vocabulary) for captured, slab, s in parts]
            try:
                with without_cudnn:  # as passes
                    graph = try_twice(
                        partial(capture_step, models, self.shape, reads, self._send(state)),
                        *(captured.slabs for captured in self.captured),
                    )
            except RuntimeError as error:
                first_line = str(error).partition("\n")[0]
                self.failure = f"{type(error).__name__}: {first_line}"
                return None
            graphs[key] = graph
            self.sessions[0].cache.graphs_captured += 1
        return graph
