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
from pathlib import Path

import attrs
import numpy as np
import torch
from attrs.validators import ge
from numpy.typing import NDArray

from toolkit import Candidates, Costs, Expand, TokenTree, TreeShaper, Verdict, option

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

PRICED = 64  # committed tokens after which costs are looked up anew
PATIENCE = 64  # steps between probes, at most, when drafting does not pay
MEMORY = 0.99  # of what was learned, per node that is judged later
READ = 4  # verdicts that are learned from at a time: each reading has a price of its own
LEAST = np.array([-np.inf, 0.1, 0.0])  # what is likelier, or comes first, is never worse
LEARNING = 0.1  # of what a node's children are like, per level
KEPT = "planned:trust, 1"  # what a file of it says that it is


@attrs.define(eq=False)
class Trust:
    """How probable acceptance is where the drafter says q: σ(a + b·logit q, + c for a first child).

    Fitted by Newton steps with a memory of some 100 nodes; it starts by believing the drafter.
    """

    _weights: Floats = attrs.field(factory=lambda: np.array([0.0, 1.0, 0.0]))
    _prior: Floats = attrs.field(factory=lambda: np.diag([1.0, 8.0, 1.0]))
    _precision: Floats = attrs.field(factory=lambda: np.diag([1.0, 8.0, 1.0]))

    def __call__(self, logprobs: Floats) -> Floats:
        """Probabilities for candidates [F, K], likeliest first."""
        a, b, c = self._weights
        score = a + b * _logit(logprobs)
        score[:, :1] += c
        return np.asarray(1 / (1 + np.exp(-score)))

    def learn(self, logprobs: Floats, top: Flags, accepted: Flags) -> None:
        """Learn from nodes whose parents were accepted, [T] each."""
        rows = np.ones((len(top), 3))
        rows[:, 1], rows[:, 2] = _logit(logprobs), top
        expected = 1 / (1 + np.exp(-rows @ self._weights))
        doubt = (rows * (expected * (1 - expected))[:, None]).T @ rows
        kept = MEMORY ** len(top)
        self._precision = kept * self._precision + (1 - kept) * self._prior + doubt
        self._weights += np.linalg.solve(self._precision, rows.T @ (accepted - expected))
        self._weights = np.maximum(self._weights, LEAST)

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
        return cls(weights, precision=precision)

    def write(self, path: Path) -> None:
        """Write to a file; whoever reads it meanwhile finds what it held before."""
        state = {
            "kind": KEPT,
            "weights": self._weights.tolist(),
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
    _passes: Floats = attrs.field(init=False)  # ms of a pass of 1, 2, … nodes
    _prices: Floats = attrs.field(init=False)  # ms of a level from 0, 1, 2, … nodes
    _trust: Trust = attrs.field(init=False, factory=Trust)
    _choices: list[tuple[Ids, Floats]] = attrs.field(init=False)
    """For each size of a level: widths to choose from, and which children each would have."""
    _children: Floats = attrs.field(init=False)  # mean worth of a node's first, second, … child
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
        self._passes, self._prices = np.ones(self.nodes), np.zeros(self.width + 1)  # until `plan`
        self._choices = [_choices(most, self.width) for most in range(self.width + 1)]
        self._children = np.array([0.6 * 0.25**rank for rank in range(self.width)])

    def plan(self, costs: Costs, length: int) -> None:
        self._costs, self._length = costs, length
        self._price()

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, worth, level, spent = root, np.ones(1), np.zeros(1, np.int64), 0.0
        self._probing = False
        for depth in range(self.depth):
            width = self._pays(worth, worth[level], spent)
            if not width and not depth and self._due():
                width, self._probing = 1, True
            if not width:
                break
            level = np.sort(level[_likeliest(worth[level], width)])
            frontier = torch.from_numpy(level)
            candidates = expand(tree, frontier, self.width)
            spent += self._prices[len(level)]
            first, tree = len(tree), tree.grow(frontier, candidates)
            worth = np.concatenate([worth, self._valued(candidates, worth[level])])
            level = np.arange(first, len(tree))
            if not len(level):
                break
        count = min(max(self._size(worth, spent), 1 + self._probing), self.nodes)
        kept = np.sort(_likeliest(worth, count))
        return tree if len(kept) == len(tree) else tree.subtree(torch.from_numpy(kept))

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
            rows = [_judged(*step) for step in self._unread]
            self._trust.learn(*(np.concatenate(column) for column in zip(*rows, strict=True)))
            self._unread = []
            if self.trust:
                self._trust.write(Path(self.trust))

    def _price(self) -> None:
        if self._costs is not None:
            self._passes = self._costs.passes(self._length, self.nodes)
            self._prices[1:] = self._costs.levels(self._length, self.width)
            self._priced = self._length

    def _due(self) -> bool:
        """Whether it is time for a probe."""
        self._idle = (self._idle + 1) % self._patience
        return not self._idle

    def _valued(self, candidates: Candidates, above: Floats) -> Floats:
        """Worths of the nodes that candidates [F, K] become below nodes of worth `above[F]`."""
        logprobs = _double(candidates.logprobs)
        given = self._trust(logprobs)
        seen = np.zeros(self.width)
        seen[: given.shape[1]] = given.sum(0) / len(given)
        self._children += LEARNING * (seen - self._children)
        return np.asarray((above[:, None] * given)[logprobs > -np.inf])

    def _rates(self, worths: Floats, spent: Floats) -> Floats:
        """Expected tokens per millisecond of the best trees of 1, 2, … nodes, by worths [R, N] and
        drafting times [R]: [R, ≤N]."""
        ordered = -np.sort(-worths, 1)[:, : self.nodes]
        return np.asarray(ordered.cumsum(1) / (spent[:, None] + self._passes[: ordered.shape[1]]))

    def _size(self, worth: Floats, spent: float) -> int:
        """The number of nodes to send."""
        return 1 + int(self._rates(worth[None], np.array([spent])).argmax())

    def _pays(self, worth: Floats, last: Floats, spent: float) -> int:
        """How many nodes of the last level, of worths `last`, to expand; 0 when none would pay."""
        most = min(self.width, len(last))
        widths, wide = self._choices[most]
        children = (-np.sort(-last)[:most, None] * self._children).ravel()
        hoped = np.empty((len(widths), len(worth) + len(children)))
        hoped[:, : len(worth)], hoped[:, len(worth) :] = worth, children * wide
        rates = self._rates(hoped, spent + self._prices[widths]).max(1)
        return int(widths[len(widths) - 1 - rates[::-1].argmax()])  # of equals the widest


def _logit(logprobs: Floats) -> Floats:
    held = np.minimum(np.maximum(logprobs, -9.0), -1e-4)
    return np.asarray(held - np.log1p(-np.exp(held)))


def _judged(tree: TokenTree, verdict: Verdict) -> tuple[Floats, Flags, Flags]:
    """Of the nodes whose parents were accepted: log-probability, whether first child, accepted."""
    parents, accepted = tree.parents.cpu().numpy(), np.zeros(len(tree), bool)
    accepted[verdict.path.cpu().numpy()] = True
    judged = np.flatnonzero(accepted[parents[1:]]) + 1
    top = parents[judged] != parents[judged - 1]
    return _double(tree.logprobs)[judged], top, accepted[judged]


def _choices(most: int, children: int) -> tuple[Ids, Floats]:
    """Widths from 0 to `most`, and 1 where a row of [widths, most · children] has a child."""
    widths = np.unique([0, most, *(2**i for i in range(most.bit_length()))])
    wide = np.arange(most * children) < widths[:, None] * children
    return widths, wide.astype(np.float64)


def _likeliest(worths: Floats, count: int) -> Ids:
    """Indices of the `count` greatest, the first of equals: a parent before its child."""
    return np.argsort(-worths, kind="stable")[:count]


def _double(values: torch.Tensor) -> Floats:
    return values.cpu().numpy().astype(np.float64)
