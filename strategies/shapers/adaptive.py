"""DynaTree: dynamic trees whose breadth and depth follow the drafter's confidence.

After the DynaTree paper and its public code (github.com/cny123222/DynaTree). Where the code differs
from the paper, this follows the paper: a node's position is its depth, siblings never share a cache,
history is a sliding window over the steps of one request, and acceptance is at most 1.
"""

from __future__ import annotations

import itertools
from collections import deque
from itertools import takewhile
from math import exp

import attrs
from attrs.validators import and_, ge, le

from toolkit import Candidates, Expand, TokenTree, TreeShaper, Verdict, option

IN_0_1 = and_(ge(0.0), le(1.0))


@attrs.define(eq=False)
class Adaptive(TreeShaper):
    """DynaTree: breadth follows confidence, depth follows path probability, history adapts both.

    A node has a confidence c = max_v q(v|node) and a path probability p. It gets `b_min` children if
    c ≥ `high`, `b_max` if c < `low`, else `b_mid`. A node is expanded if it is above `max_depth`, p ≥
    `stop`, and it is above `depth` or p > `deep`. A child is kept if its own p ≥ `prune`. After
    every step the acceptance (accepted drafted tokens over the tree's depth) enters a window. Once
    it holds five steps, or is full, a mean above `goal` + 0.1 makes trees deeper and narrower, and
    one below `goal` − 0.1 does the reverse.
    """

    name = "adaptive"
    depth: int = option(5, help="levels to which `stop` alone applies", validator=ge(1))
    max_depth: int = option(
        8, help="most levels; below `depth`, `deep` applies, too", validator=ge(1)
    )
    high: float = option(
        0.9, help="confidence from which a node gets b_min children", validator=IN_0_1
    )
    low: float = option(
        0.4, help="confidence below which a node gets b_max children", validator=IN_0_1
    )
    b_min: int = option(1, help="children of a confident node", validator=ge(1))
    b_mid: int = option(2, help="children of any other node", validator=ge(1))
    b_max: int = option(3, help="children of an uncertain node", validator=ge(1))
    stop: float = option(
        0.1, help="path probability below which nothing is expanded", validator=IN_0_1
    )
    deep: float = option(0.5, help="path probability needed below `depth`", validator=IN_0_1)
    prune: float = option(
        0.05, help="path probability below which a child is dropped", validator=IN_0_1
    )
    nodes: int = option(64, help="most nodes, root included, breadth first", validator=ge(1))
    window: int = option(10, help="steps of history", validator=ge(1))
    goal: float = option(0.7, help="mean acceptance to aim for", validator=IN_0_1)
    rate: float = option(0.05, help="change of `high` and `deep` per step", validator=IN_0_1)
    breadth: bool = option(True, help="children by confidence; off: always b_mid")
    gating: bool = option(True, help="depth by path probability; off: `depth` levels for all")
    history: bool = option(True, help="adapt to past acceptance; off: thresholds are constant")

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
            frontier = self._choose_frontier(tree, first, depth)
            if not frontier or len(tree) >= self.nodes:
                break
            candidates = expand(tree, frontier, max(self.b_min, self.b_mid, self.b_max))
            first = len(tree)
            tree = tree.grow(frontier, self._keep_likely(tree, frontier, candidates))
            tree = tree.first(self.nodes)
        return tree

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        if not self.history or not tree.depth:
            return
        self._past.append((len(verdict.path) - 1) / tree.depth)
        mean = sum(self._past) / len(self._past)
        if len(self._past) >= min(5, self.window):
            if mean > self.goal + 0.1:
                self._now = self._now.deeper(self)
            elif mean < self.goal - 0.1:
                self._now = self._now.wider(self)

    def _choose_frontier(self, tree: TokenTree, first: int, depth: int) -> list[int]:
        """The nodes of the last level, ids from `first` on, to expand."""
        if depth >= (self.max_depth if self.gating else self.depth):
            return []
        if not self.gating:
            return list(range(first, len(tree)))
        needed = self._now.deep if depth >= self._now.depth else -1.0
        level = enumerate(map(exp, tree.path_logprobs[first:]), first)
        return [node for node, p in level if p >= self.stop and p > needed]

    def _keep_likely(
        self, tree: TokenTree, frontier: list[int], candidates: Candidates
    ) -> Candidates:
        """The candidates that become nodes."""
        kept = [
            self._count_children(tree.path_logprobs[node], row)
            for node, row in zip(frontier, candidates.logprobs, strict=True)
        ]
        return Candidates(
            [row[:count] for count, row in zip(kept, candidates.tokens, strict=True)],
            [row[:count] for count, row in zip(kept, candidates.logprobs, strict=True)],
        )

    def _count_children(self, above: float, logprobs: list[float]) -> int:
        """How many candidates of a node become children, by its path log-probability and theirs."""
        first = logprobs[: self._most_children(logprobs)]
        likely = takewhile(lambda logprob: exp(min(above + logprob, 0.0)) >= self.prune, first)
        return len(list(likely))

    def _most_children(self, logprobs: list[float]) -> int:
        """The most children of a node, by its confidence: the probability of its first candidate."""
        if not self.breadth or not logprobs:
            return self.b_mid
        confidence = exp(min(logprobs[0], 0.0))
        if confidence >= self._now.high:
            return self.b_min
        return self.b_mid if confidence >= self.low else self.b_max


@attrs.frozen
class _Thresholds:
    """The thresholds that history changes, within bounds."""

    depth: int
    high: float
    deep: float

    def deeper(self, limits: Adaptive) -> _Thresholds:
        return _Thresholds(
            max(self.depth, min(self.depth + 1, limits.max_depth - 1)),
            min(self.high, max(self.high - limits.rate, 0.5)),
            min(self.deep, max(self.deep - limits.rate, 0.3)),
        )

    def wider(self, limits: Adaptive) -> _Thresholds:
        return _Thresholds(
            min(self.depth, max(self.depth - 1, 2)),
            max(self.high, min(self.high + limits.rate, 0.95)),
            max(self.deep, min(self.deep + limits.rate, 0.8)),
        )
