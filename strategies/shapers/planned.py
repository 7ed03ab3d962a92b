"""Trees as deep and as large as measured costs let them pay.

The tree that is sent has the nodes that maximise expected tokens per millisecond, and another level
is drafted only while that rate is expected to rise: Sequoia's size by measured cost (Chen et al.
2024), decided anew at every step as in DySpec (Xiong et al. 2024), over probabilities that this
request's own verdicts have calibrated.
"""

from __future__ import annotations

import json
import os
import tempfile
from itertools import chain, zip_longest
from math import exp, inf, log1p, tanh
from pathlib import Path

import attrs
import numpy as np
from attrs.validators import ge
from numpy.typing import NDArray

from toolkit import Candidates, Costs, Expand, TokenTree, TreeShaper, Verdict, option

Floats = NDArray[np.float64]
Judged = tuple[float, bool, bool]  # a node's log-probability; is it a first child, was it accepted?

LIKELY = 0.01  # worth from which a node is looked at: less costs more time than it gives
PRICED = 64  # committed tokens after which costs are looked up anew
PATIENCE = 64  # steps between probes, at most, when drafting does not pay
MEMORY = 0.99  # of what was learned, per node that is judged later
READ = 8  # verdicts that are learned from at a time: each reading has a price of its own
LEAST = np.array([-inf, 0.1, 0.0])  # what is likelier, or comes first, is never worse
LEARNING = 0.1  # of what a node's children are like, per level
KEPT = "planned:trust, 1"  # what a file of it says that it is


@attrs.define(eq=False)
class Trust:
    """How probable acceptance is where the drafter says q: σ(a + b·logit q, + c for a first child).

    Fitted by Newton steps with a memory of some 100 nodes; it starts by believing the drafter.
    """

    _weights: list[float] = attrs.field(factory=lambda: [0.0, 1.0, 0.0])
    _prior: Floats = attrs.field(factory=lambda: np.diag([1.0, 8.0, 1.0]))
    _precision: Floats = attrs.field(factory=lambda: np.diag([1.0, 8.0, 1.0]))

    def __call__(self, logprobs: list[float]) -> list[float]:
        """Probabilities of a node's candidates, likeliest first, as far as they are `LIKELY`."""
        a, b, c = self._weights
        found: list[float] = []
        for logprob in logprobs:
            score = a + b * _logit(logprob) + (0.0 if found else c)
            probability = 0.5 + 0.5 * tanh(0.5 * score)
            if logprob == -inf or not probability >= LIKELY:
                break
            found.append(probability)
        return found

    def learn(self, judged: list[Judged]) -> None:
        """Learn from nodes whose parents were accepted."""
        rows = np.array([(1.0, _logit(logprob), first) for logprob, first, _ in judged])
        expected = 0.5 + 0.5 * np.tanh(0.5 * rows @ self._weights)
        doubt = (rows * (expected * (1 - expected))[:, None]).T @ rows
        kept = MEMORY ** len(rows)
        self._precision = kept * self._precision + (1 - kept) * self._prior + doubt
        error = np.array([accepted for *_, accepted in judged]) - expected
        step = np.linalg.solve(self._precision, rows.T @ error)
        self._weights = np.maximum(self._weights + step, LEAST).tolist()

    @classmethod
    def read(cls, path: Path) -> Trust:
        """What was written to a file. Raises `ValueError` when it holds anything else."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            weights, precision = np.array(kept["weights"]), np.array(kept["precision"])
            np.linalg.cholesky(precision)  # raises where nothing could be learned on top
            finite = np.isfinite(weights).all() and np.isfinite(precision).all()
            fits = precision.shape == (3, 3) and bool((weights >= LEAST).all())
            if not (kept["kind"] == KEPT and finite and fits):
                raise ValueError(kept["kind"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"trust={path} is damaged, or no file that `planned` wrote: remove it or name another"
            ) from error
        return cls(weights.tolist(), precision=precision)

    def write(self, path: Path) -> None:
        """Write to a file; whoever reads it meanwhile finds what it held before."""
        state = {
            "kind": KEPT,
            "weights": self._weights,
            "precision": self._precision.tolist(),
        }
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(state, file)
        Path(name).replace(path)


@attrs.define(eq=False)
class Planned(TreeShaper):
    """Grow and send what pays, by measured cost and by acceptance as observed.

    A node's worth is the probability that it is accepted: the product, along its path, of the
    drafter's probabilities as calibrated by the verdicts so far. A tree of n nodes drafted in time d
    gives E/(d + t(n)) tokens per millisecond, where E is the sum of its nodes' worths and t the
    measured cost of a pass; of all sizes the best is sent, so that steps in t are used to their edge.
    A level is drafted if, with children like those seen so far, that rate would rise. When not even
    the first level pays, nothing is drafted but a probe now and then, to see whether it would again.
    Nodes of a worth below 0.01 are left out.
    """

    name = "planned"
    nodes: int = option(64, help="most nodes to verify, root included", validator=ge(1))
    depth: int = option(12, help="most levels below the root", validator=ge(1))
    width: int = option(
        8, help="most nodes expanded per level, and children of each", validator=ge(1)
    )
    trust: str = option(
        "", help="file that keeps what was learned, for the next request of these two models"
    )

    _costs: Costs | None = attrs.field(init=False, default=None)
    _length: int = attrs.field(init=False, default=0)  # cached tokens
    _priced: int = attrs.field(init=False, default=0)  # cached tokens when costs were looked up
    _passes: list[float] = attrs.field(init=False)  # ms of a pass of 1, 2, … nodes
    _prices: list[float] = attrs.field(init=False)  # ms of a level from 0, 1, 2, … nodes
    _trust: Trust = attrs.field(init=False, factory=Trust)
    _children: list[float] = attrs.field(
        init=False
    )  # mean worth of a node's first, second, … child
    _unread: list[tuple[TokenTree, Verdict]] = attrs.field(init=False, factory=list)
    _probing: bool = attrs.field(init=False, default=False)
    _idle: int = attrs.field(init=False, default=0)  # steps since drafting last paid or was tried
    _patience: int = attrs.field(init=False, default=1)  # steps until the next probe

    def __attrs_post_init__(self) -> None:
        if self.trust and Path(self.trust).exists():
            self._trust = Trust.read(Path(self.trust))
        elif self.trust and not os.access(Path(self.trust).parent, os.W_OK):
            raise ValueError(
                f"trust={self.trust}: there is no such folder that could be written to"
            )
        self._passes, self._prices = [1.0] * self.nodes, [0.0] * (self.width + 1)  # until `plan`
        self._children = [0.6 * 0.25**rank for rank in range(self.width)]

    def plan(self, costs: Costs, length: int) -> None:
        self._costs, self._length = costs, length
        self._price()

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, worths, level, spent = root, [1.0], [0], 0.0
        self._probing = False
        for depth in range(self.depth):
            level.sort(key=worths.__getitem__, reverse=True)
            width = self._pays(worths, level, spent)
            if not width and not depth and self._due():
                width, self._probing = 1, True
            if not width:
                break
            frontier = sorted(level[:width])
            candidates = expand(tree, frontier, self.width)
            spent += self._prices[width]
            given = self._believed(candidates, [worths[node] for node in frontier])
            first, tree = len(tree), tree.grow(frontier, _cut(candidates, given))
            worths += [worth for row in given for worth in row]
            level = list(range(first, len(tree)))
            if not level:
                break
        _, size = self._best(sorted(worths, reverse=True), spent)
        return self._only(tree, worths, min(max(size, 1 + self._probing), self.nodes))

    def _only(self, tree: TokenTree, worths: list[float], size: int) -> TokenTree:
        """The `size` nodes of greatest worth, the first of equals: a parent before its child."""
        if size >= len(tree):
            return tree
        order = sorted(range(len(tree)), key=worths.__getitem__, reverse=True)
        return tree.subtree(sorted(order[:size]))

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        self._length += len(verdict.path)
        if self._length >= self._priced + PRICED:
            self._price()
        if len(tree) == 1:
            return
        missed = self._probing and len(verdict.path) == 1
        self._patience = min(2 * self._patience, PATIENCE) if missed else 1
        self._unread.append((tree, verdict))
        if self._probing or len(self._unread) == READ:
            self._trust.learn([node for step in self._unread for node in _judged(*step)])
            self._unread = []
            if self.trust:
                self._trust.write(Path(self.trust))

    def _price(self) -> None:
        if self._costs is not None:
            self._passes = self._costs.passes(self._length, self.nodes).tolist()
            self._prices = [0.0, *self._costs.levels(self._length, self.width).tolist()]
            self._priced = self._length

    def _due(self) -> bool:
        """Whether it is time for a probe."""
        self._idle = (self._idle + 1) % self._patience
        return not self._idle

    def _believed(self, candidates: Candidates, above: list[float]) -> list[list[float]]:
        """Worths [F][≤K] of candidates below nodes of worth `above[F]`, likely ones alone."""
        given = [self._trust(row) for row in candidates.logprobs]
        seen = [sum(column) / len(given) for column in zip_longest(*given, fillvalue=0.0)]
        both = zip_longest(self._children, seen[: self.width], fillvalue=0.0)
        self._children = [old + LEARNING * (new - old) for old, new in both]
        return [_likely(worth, row) for worth, row in zip(above, given, strict=True)]

    def _pays(self, worths: list[float], level: list[int], spent: float) -> int:
        """How many of the last level's nodes, likeliest first, to expand; 0 when none would pay."""
        hoped = [_likely(worths[node], self._children) for node in level[: self.width]]
        width, found, most = len(hoped), 0, 0.0
        while width:
            every = sorted(chain(worths, *hoped[:width]), reverse=True)
            rate, _ = self._best(every, spent + self._prices[width])
            if rate <= most:  # of equals the widest
                break
            most, found, width = rate, width, width // 2
        idle, _ = self._best(sorted(worths, reverse=True), spent)
        return found if most >= idle else 0

    def _best(self, worths: list[float], spent: float) -> tuple[float, int]:
        """Expected tokens per millisecond of the best tree, and its size; worths descending."""
        expected, most, size = 0.0, 0.0, 0
        for count, (worth, ms) in enumerate(zip(worths, self._passes, strict=False), 1):
            expected += worth
            if expected > most * (spent + ms):
                most, size = expected / (spent + ms), count
        return most, size


def _likely(above: float, children: list[float]) -> list[float]:
    """Worths of the likely children, descending, of a node of worth `above`."""
    worths: list[float] = []
    for child in children:
        if above * child < LIKELY:
            break
        worths.append(above * child)
    return worths


def _cut(candidates: Candidates, given: list[list[float]]) -> Candidates:
    """The first candidates of each row, as many as `given` has worths."""
    tokens = zip(candidates.tokens, given, strict=True)
    logprobs = zip(candidates.logprobs, given, strict=True)
    return Candidates(
        [row[: len(worths)] for row, worths in tokens],
        [row[: len(worths)] for row, worths in logprobs],
    )


def _logit(logprob: float) -> float:
    held = min(max(logprob, -9.0), -1e-4)
    return held - log1p(-exp(held))


def _judged(tree: TokenTree, verdict: Verdict) -> list[Judged]:
    """The nodes whose parents were accepted."""
    accepted, parents = set(verdict.path), tree.parents
    return [
        (tree.logprobs[node], parents[node] != parents[node - 1], node in accepted)
        for node in range(1, len(tree))
        if parents[node] in accepted
    ]
