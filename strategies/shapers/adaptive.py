"""DynaTree: dynamic trees whose breadth and depth follow the drafter's confidence.

After the DynaTree paper and its public code (github.com/cny123222/DynaTree). Where that code differs
we follow the paper: positions are depths, siblings never share a cache, and history is a sliding
window over the steps of one request with an acceptance bounded by 1.
"""

from __future__ import annotations

import itertools
from collections import deque
from itertools import takewhile
from math import exp

import attrs
from attrs.validators import and_, ge, le

from toolkit import Candidates, Expand, TokenTree, TreeShaper, Verdict, option

PROBABILITY = and_(ge(0.0), le(1.0))


@attrs.define(eq=False)
class Adaptive(TreeShaper):
    """DynaTree: breadth follows confidence, depth follows path probability, history adapts both.

    A node has a confidence c = max_v q(v|node) and a path probability p. Branches: `b_min` if c ≥
    `high`, `b_max` if c < `low`, else `b_mid`. A node is expanded if it is above `max_depth`, p ≥
    `stop`, and it is above `depth` or p > `deep`. A child is kept if its own p ≥ `prune`. After
    every step the acceptance (accepted drafted tokens over the tree's depth) enters a window. Once
    it holds five steps, or is full, a mean above `goal` + 0.1 makes trees deeper and narrower, and
    one below `goal` − 0.1 does the reverse.
    """

    name = "adaptive"
    depth: int = option(5, help="levels that any likely node may reach", validator=ge(1))
    max_depth: int = option(8, help="levels that only the likeliest reach", validator=ge(1))
    high: float = option(0.9, help="confidence from which b_min children do", validator=PROBABILITY)
    low: float = option(0.4, help="confidence below which b_max are needed", validator=PROBABILITY)
    b_min: int = option(1, help="children of a confident node", validator=ge(1))
    b_mid: int = option(2, help="children of any other node", validator=ge(1))
    b_max: int = option(3, help="children of an uncertain node", validator=ge(1))
    stop: float = option(
        0.1, help="path probability below which nothing is expanded", validator=PROBABILITY
    )
    deep: float = option(0.5, help="path probability needed below `depth`", validator=PROBABILITY)
    prune: float = option(
        0.05, help="path probability below which a child is dropped", validator=PROBABILITY
    )
    nodes: int = option(64, help="most nodes, root included, breadth first", validator=ge(1))
    window: int = option(10, help="steps of history", validator=ge(1))
    goal: float = option(0.7, help="acceptance to steer for", validator=PROBABILITY)
    rate: float = option(0.05, help="change of `high` and `deep` per step", validator=PROBABILITY)
    breadth: bool = option(True, help="branches by confidence; off: always b_mid")
    gating: bool = option(True, help="depth by path probability; off: `depth` levels for all")
    history: bool = option(True, help="steer by past acceptance; off: thresholds stay")

    _now: _Thresholds = attrs.field(init=False)
    _past: deque[float] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.depth > self.max_depth:
            raise ValueError(
                f"'depth' must be at most 'max_depth' ({self.max_depth}): {self.depth}"
            )
        if self.low > self.high:
            raise ValueError(f"'low' must be at most 'high' ({self.high}): {self.low}")
        self._now = _Thresholds(self.depth, self.high, self.deep)
        self._past = deque(maxlen=self.window)

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        tree, first = root, 0
        for depth in itertools.count():
            frontier = self._expanded(tree, first, depth)
            if not frontier or len(tree) >= self.nodes:
                break
            candidates = expand(tree, frontier, max(self.b_min, self.b_mid, self.b_max))
            first = len(tree)
            tree = tree.grow(frontier, self._kept(tree, frontier, candidates))
            tree = tree.first(self.nodes)
        return tree

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        if not self.history or not tree.depth:
            return
        self._past.append((len(verdict.path) - 1) / tree.depth)
        mean = sum(self._past) / len(self._past)
        if len(self._past) >= min(5, self.window):
            if mean > self.goal + 0.1:
                self._now = self._now.bolder(self)
            elif mean < self.goal - 0.1:
                self._now = self._now.meeker(self)

    def _expanded(self, tree: TokenTree, first: int, depth: int) -> list[int]:
        """Which nodes of the last level, ids from `first` on, are expanded."""
        if depth >= (self.max_depth if self.gating else self.depth):
            return []
        if not self.gating:
            return list(range(first, len(tree)))
        needed = self._now.deep if depth >= self._now.depth else -1.0
        level = enumerate(map(exp, tree.path_logprobs[first:]), first)
        return [node for node, p in level if p >= self.stop and p > needed]

    def _kept(self, tree: TokenTree, frontier: list[int], candidates: Candidates) -> Candidates:
        """The candidates that become nodes: within the branches, and likely enough."""
        kept = [
            self._children(tree.path_logprobs[node], row)
            for node, row in zip(frontier, candidates.logprobs, strict=True)
        ]
        return Candidates(
            [row[:count] for count, row in zip(kept, candidates.tokens, strict=True)],
            [row[:count] for count, row in zip(kept, candidates.logprobs, strict=True)],
        )

    def _children(self, above: float, logprobs: list[float]) -> int:
        """How many of a node's candidates it keeps, by its own path log-probability and theirs."""
        first = logprobs[: self._branches(logprobs)]
        likely = takewhile(lambda logprob: exp(min(above + logprob, 0.0)) >= self.prune, first)
        return len(list(likely))

    def _branches(self, logprobs: list[float]) -> int:
        """Children of a node, by its confidence: the probability of its first candidate."""
        if not self.breadth or not logprobs:
            return self.b_mid
        confidence = exp(min(logprobs[0], 0.0))
        if confidence >= self._now.high:
            return self.b_min
        return self.b_mid if confidence >= self.low else self.b_max


@attrs.frozen
class _Thresholds:
    """What history moves, within bounds."""

    depth: int
    high: float
    deep: float

    def bolder(self, limits: Adaptive) -> _Thresholds:
        return _Thresholds(
            max(self.depth, min(self.depth + 1, limits.max_depth - 1)),
            min(self.high, max(self.high - limits.rate, 0.5)),
            min(self.deep, max(self.deep - limits.rate, 0.3)),
        )

    def meeker(self, limits: Adaptive) -> _Thresholds:
        return _Thresholds(
            min(self.depth, max(self.depth - 1, 2)),
            max(self.high, min(self.high + limits.rate, 0.95)),
            max(self.deep, min(self.deep + limits.rate, 0.8)),
        )
