"""Measures what passes and draft levels cost on this machine.

It decodes, because the time of a pass depends on what runs between passes and on the CPU's caches. The
median of each size counts; a smaller pass never counts as more expensive than a larger one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle
from statistics import median
from time import perf_counter

from attrs import define, field
from torch import Tensor

from toolkit.costs import Costs
from toolkit.engine import Strategies, decode
from toolkit.interfaces import Drafter, Expand, Runtime, TreeShaper, Verifier
from toolkit.runtime.session import ModelSession
from toolkit.sampling import Sampler, Sampling
from toolkit.tree import Candidates, TokenTree, Verdict

CONTEXTS = 64, 512
ROWS = 1, 2, 4, 8, 16, 32, 64
WIDTHS = 1, 2, 4, 8, 16
CHILDREN = 4  # asked for after every node of a level
WARM_UP = 2  # steps of a size before its times count: requests, too, repeat passes of similar sizes
REPEATS = 3  # steps that count, for sizes up to 16; larger sizes have one
SMALL = 120e6  # parameters up to which there is more than one step of a size

Begin = Callable[[], tuple[ModelSession, Runtime, Drafter]]


def measure_costs(begin: Begin, positions: int) -> Costs:
    """Measure passes and levels after random prompts.

    `begin` opens a request's target and drafter, each of which can address `positions` positions.

    It takes at most 3 seconds for a target up to 100 M parameters on an idle machine. A larger target
    gets one step of each size: 18 passes.
    """
    room = positions - max(ROWS) * 2
    contexts = [max(1 + i, min(length, room)) for i, length in enumerate(CONTEXTS)]
    timed = [_timed(begin, length, TimingVerifier(moves=room > 0)) for length in contexts]
    return Costs(
        contexts=(contexts[0], contexts[1]),
        rows=ROWS,
        target=(timed[0].passes, timed[1].passes),
        widths=WIDTHS,
        draft=(timed[0].levels, timed[1].levels),
        noise=max(each.noise for each in timed),
    )


def _timed(begin: Begin, length: int, verifier: Verifier) -> Times:
    target, runtime, drafter = begin()
    rng, times, sizes = random.Random(0), Times(), _sizes(target.model.parameters)  # noqa: S311
    shaper = TimingShaper(target, iter(sizes), times, rng)
    events = decode(
        target,
        runtime,
        Strategies(drafter, shaper, verifier),
        [rng.randrange(2) for _ in range(length)],
        max_new_tokens=3 * len(sizes),
        ends=lambda _: False,
        sampling=Sampling(),
        seed=0,
    )
    next(events)  # the prompt's
    for (size, counts), event in zip(sizes, events, strict=False):
        if counts and event.step is not None and event.step.nodes == size:
            times.taken["pass", size].append(event.step.verify_ms + event.step.commit_ms)
    return times


def _sizes(parameters: int) -> list[tuple[int, bool]]:
    """The size of each step, and whether its times count."""
    if parameters > SMALL:
        return [(size, True) for size in (ROWS[0], *ROWS)]  # the first twice, for the noise
    return [each for size in ROWS for each in _steps(size)]


def _steps(size: int) -> list[tuple[int, bool]]:
    return [(size, False)] * WARM_UP + [(size, True)] * (REPEATS if size <= max(WIDTHS) else 1)


@define(eq=False)
class Times:
    """Times in ms by kind (pass or level) and size."""

    taken: defaultdict[tuple[str, int], list[float]] = field(factory=lambda: defaultdict(list))

    @property
    def passes(self) -> tuple[float, ...]:
        """Times of passes of `ROWS` nodes."""
        return self._curve("pass", ROWS)

    @property
    def levels(self) -> tuple[float, ...]:
        """Times of levels of `WIDTHS` frontier nodes."""
        return self._curve("level", WIDTHS)

    def _curve(self, what: str, sizes: tuple[int, ...]) -> tuple[float, ...]:
        """Median times, each at most that of the next size; a size without times has those of the size
        before."""
        typical, last = {}, 0.0
        for size in sizes:
            last = typical[size] = median(self.taken.get((what, size)) or [last])
        return tuple(min(typical[more] for more in sizes if more >= size) for size in sizes)

    @property
    def noise(self) -> float:
        """The worst ratio of a median time to the least time of its size, or of a larger size."""
        several = [times for times in self.taken.values() if len(times) > 1]
        spread = median([median(times) / min(times) for times in several] or [1.0])
        curves = ("pass", ROWS, self.passes), ("level", WIDTHS, self.levels)
        above = [
            median(self.taken[what, size]) / least
            for what, sizes, curve in curves
            for size, least in zip(sizes, curve, strict=True)
            if self.taken.get((what, size))
        ]
        return max([spread, *above])


@define(eq=False)
class TimingShaper(TreeShaper):
    """Sends trees of random tokens of `sizes`, and times three draft levels before each tree.

    No level is wider than the tree is large. Each size comes with whether its times count.
    """

    name = "timing"
    nodes = max(ROWS)

    target: ModelSession
    sizes: Iterator[tuple[int, bool]]
    times: Times
    rng: random.Random
    widths: Iterator[int] = field(factory=lambda: cycle(WIDTHS))

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        (size, counts), most = next(self.sizes), max(WIDTHS)
        if size == 1:  # as in AR, where nothing is drafted
            return root
        width = next(width for width in self.widths if width <= size)
        star = self._grown(root, 0, max(ROWS) - 1)
        drafted = self._grown(star.first(1 + most), 1, most)
        levels = [(0, 1), (1, width), (1 + most, width)]  # first node and width
        for first, count in levels[
            : self.target.max_draft_depth
        ]:  # deeper levels are never drafted
            ms = self._level(drafted.first(first + most), list(range(first, first + count)), expand)
            if counts:
                self.times.taken["level", count].append(ms)
        return star.first(size)

    def _level(self, tree: TokenTree, frontier: list[int], expand: Expand) -> float:
        began = perf_counter()
        tree.grow(frontier, expand(tree, frontier, CHILDREN))
        return 1e3 * (perf_counter() - began)

    def _grown(self, tree: TokenTree, node: int, children: int) -> TokenTree:
        tokens = [self.rng.randrange(self.target.vocabulary) for _ in range(children)]
        return tree.grow([node], Candidates([tokens], [[-1.0] * children]))


@define
class TimingVerifier(Verifier):
    """Reads the logits as `greedy` does, and accepts one drafted node or none, whatever they say."""

    name = "timing"
    exactness = "lossy"
    assumes = frozenset({"fixed", "sampled"})

    moves: bool

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        path = [0, 2] if self.moves and len(tree) > 2 else [0]
        return Verdict(path, logits.max(-1).indices.tolist()[0])
