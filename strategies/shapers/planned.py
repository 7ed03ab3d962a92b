"""Sequoia and DySpec style: the depth and size of each tree follow measured costs.

Sequoia chooses a tree's size by measured cost (Chen et al. 2024), DySpec decides at every step (Xiong
et al. 2024). This shaper does both, with probabilities that the request's own verdicts calibrate. It
drafts another level only while the expected gain rises.
"""

from __future__ import annotations

import tempfile
import warnings
from itertools import accumulate
from operator import sub
from pathlib import Path

import attrs
from attrs.validators import ge

from toolkit import (
    Candidates,
    Costs,
    Expand,
    TokenTree,
    TreeShaper,
    Trust,
    Verdict,
    option,
)

LEAST_PROBABILITY = 0.01  # less likely nodes cost more time than they save
COSTS_EVERY = 64  # committed tokens between two look-ups of the costs
MOST_IDLE = 64  # most steps between probes while drafting does not pay
RECENT = 0.98  # weight of earlier steps in the recent rate, per step
NEWEST = 0.1  # weight of the newest level in the average worth of children


@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)  # its state changes at every step
class Planned(TreeShaper):
    """Sequoia and DySpec style: grows trees by measured cost and observed acceptance.

    The probability that a node is accepted is the product of the drafter's probabilities along its
    path, calibrated by the verdicts so far. Their sum over a tree's nodes is E, the expected number of
    tokens. The tree takes d + t(n) milliseconds: d to draft it, and t(n) for a pass over n nodes. To
    maximise tokens per millisecond over all steps, each step maximises E·m − d − t(n), where m is the
    recent time per expected token (Dinkelbach 1967). A node is worth the time that it is expected to
    save: its probability times m.

    A level is drafted if that gain is expected to rise, with children like those seen so far. If not
    even the first level pays, nothing is drafted, except for a probe from time to time. Nodes with a
    probability below 0.01 are left out, except in a probe.
    """

    name = "planned"
    nodes: int = option(64, help="most nodes to verify, root included", validator=ge(1))
    depth: int = option(12, help="most levels below the root", validator=ge(1))
    width: int = option(
        4, help="most nodes expanded per level, and children of each", validator=ge(1)
    )
    trust: str = option(
        "", help="file that keeps the learned weights, for later requests of these two models"
    )

    _costs: Costs | None = attrs.field(init=False, default=None)
    _length: int = attrs.field(init=False, default=0)  # cached tokens
    _costs_at: int = attrs.field(
        init=False, default=0
    )  # cached tokens at the last look-up of costs
    _pass_ms: list[float] = attrs.field(init=False)  # ms of a pass of 1, 2, … nodes
    _level_ms: list[float] = attrs.field(init=False)  # ms of a level from 0, 1, 2, … nodes
    _trust: Trust = attrs.field(init=False, factory=Trust)
    _tokens: float = attrs.field(init=False, default=1.0)  # expected tokens of recent steps
    _ms: float = attrs.field(init=False, default=1.0)  # milliseconds of recent steps
    _least_worth: float = attrs.field(
        init=False, default=LEAST_PROBABILITY
    )  # below it a node is left out
    _children: list[float] = attrs.field(init=False)
    """Average worth of first, second, … children, as a share of their parents' worth."""
    _probing: bool = attrs.field(init=False, default=False)
    _idle: int = attrs.field(init=False, default=0)  # steps without drafts since the last probe
    _most_idle: int = attrs.field(init=False, default=1)  # steps until the next probe
    _can_save: bool = attrs.field(init=False, default=True)  # whether `trust` can still be written

    def __attrs_post_init__(self) -> None:
        if self.trust:
            _require_writable(Path(self.trust).parent)
            if Path(self.trust).exists():
                self._trust = Trust.read(Path(self.trust))
        self._pass_ms, self._level_ms = [1.0] * self.nodes, [0.0] * (self.width + 1)  # until `plan`
        self._children = [0.6 * 0.25**rank for rank in range(self.width)]

    def plan(self, costs: Costs, length: int) -> None:
        self._costs, self._length = costs, length
        self._look_up_costs()
        self._tokens, self._ms = 1.0, self._pass_ms[0]  # starts from AR's rate

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        if self.nodes == 1:
            return root
        token = self._ms / self._tokens  # the worth of one token, in ms
        tree, worths, level, spent = root, [token], [0], 0.0
        self._least_worth, self._probing = LEAST_PROBABILITY * token, False
        while True:
            ordered = sorted(worths, reverse=True)
            gains = self._list_gains(ordered)
            width = self._choose_width([worths[node] for node in level], ordered, max(gains))
            if not width and level == [0] and self._is_probe_due():
                width, self._probing = 1, True
                self._least_worth = 0.0  # a probe sends a node whatever its probability
            if not width or not level or tree.depths[level[0]] == self.depth:
                break
            frontier = sorted(level[:width])
            candidates = expand(tree, frontier, self.width)
            spent += self._level_ms[width]
            kept, below = self._keep_likely(candidates, [worths[node] for node in frontier])
            first, tree = len(tree), tree.grow(frontier, kept)
            worths += below
            level = sorted(range(first, len(tree)), key=worths.__getitem__, reverse=True)
        size = max(1 + gains.index(max(gains)), min(1 + self._probing, len(tree), self.nodes))
        self._tokens = RECENT * self._tokens + sum(ordered[:size]) / token
        self._ms = RECENT * self._ms + spent + self._pass_ms[size - 1]
        return self._best(tree, worths, size)

    def _best(self, tree: TokenTree, worths: list[float], size: int) -> TokenTree:
        """The `size` nodes of greatest worth, the first of equals: a parent before its child."""
        if size == len(tree):
            return tree
        order = sorted(range(len(tree)), key=worths.__getitem__, reverse=True)
        return tree.subtree(sorted(order[:size]))

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        self._length += len(verdict.path)
        if self._length >= self._costs_at + COSTS_EVERY:
            self._look_up_costs()
        if len(verdict.path) > 1:
            self._most_idle = 1
        elif self._probing:
            self._most_idle = min(2 * self._most_idle, MOST_IDLE)
        learned = self._trust.observe(tree, verdict, at_once=self._probing)
        if learned and self.trust and self._can_save:
            self._save_trust(Path(self.trust))

    def _save_trust(self, path: Path) -> None:
        """Write the weights; where that fails, warn once and decode on."""
        try:
            self._trust.write(path)
        except OSError as error:
            self._can_save = False
            warnings.warn(f"trust={path} was not written: {error}", stacklevel=2)

    def _look_up_costs(self) -> None:
        if self._costs is not None:
            self._pass_ms = self._costs.passes(self._length, self.nodes).tolist()
            self._level_ms = [0.0, *self._costs.levels(self._length, self.width).tolist()]
            self._costs_at = self._length

    def _is_probe_due(self) -> bool:
        """Whether this step is a probe."""
        self._idle = (self._idle + 1) % self._most_idle
        return not self._idle

    def _keep_likely(
        self, candidates: Candidates, above: list[float]
    ) -> tuple[Candidates, list[float]]:
        """The candidates that are likely enough below nodes of worth `above[F]`, and their worths."""
        tokens, logprobs, worths = [], [], list[float]()
        share, seen = 1 / sum(above), [0.0] * self.width
        for worth, names, chances in zip(
            above, candidates.tokens, candidates.logprobs, strict=True
        ):
            below = self._trust(worth, chances[: self.width], self._least_worth)
            for rank, each in enumerate(below):
                seen[rank] += share * each
            tokens.append(names[: len(below)])
            logprobs.append(chances[: len(below)])
            worths += below
        both = zip(self._children, seen, strict=True)
        self._children = [old + NEWEST * (new - old) for old, new in both]
        return Candidates(tokens, logprobs), worths

    def _choose_width(self, level: list[float], worths: list[float], gain: float) -> int:
        """How many of a level's nodes to expand if that should raise `gain`; worths descend."""
        width, hoped = 0, list(worths)
        for above in level[: self.width]:
            children = [
                above * share for share in self._children if above * share >= self._least_worth
            ]
            if width and sum(children) < self._level_ms[width + 1] - self._level_ms[width]:
                break
            hoped += children
            width += 1
        hoped.sort(reverse=True)
        # Of equal gains the larger tree: a level that costs nothing is drafted.
        return width if max(self._list_gains(hoped)) - self._level_ms[width] >= gain else 0

    def _list_gains(self, worths: list[float]) -> list[float]:
        """The gains of trees of 1, 2, … nodes: their worth less the time of their pass."""
        return list(map(sub, accumulate(worths), self._pass_ms))


def _require_writable(folder: Path) -> None:
    """Raise `ValueError` when no file can be made in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"trust: no file can be written to {folder}: {error.strerror}") from error
