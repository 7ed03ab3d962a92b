"""Measure what passes cost on this machine, and remember it from one process to the next.

Of several rounds the least time counts, and a small pass never counts as dearer than a larger one:
whatever disturbs a measurement adds to it. What was measured on a busy machine is not remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import cattrs
import torch
from attrs import define, field

from toolkit.costs import Costs
from toolkit.interfaces import Drafter
from toolkit.runtime.machine import cache_folder, cpu_name, sources
from toolkit.runtime.models import LoadedModel
from toolkit.runtime.session import ModelSession
from toolkit.tree import Candidates, TokenTree

CONTEXTS = 64, 512
ROWS = 1, 2, 4, 8, 16, 32, 64
WIDTHS = 1, 2, 4, 8, 16
CHILDREN = 8  # asked for after every node of a level
ROUNDS, SECONDS = 6, 1.0  # at most, per context; a model too slow for that gets one round
SMALL = 120e6  # parameters up to which there is more than one round
BUSY = 1.6  # noise from which a measurement is not remembered from one process to the next

Begin = Callable[[list[int]], tuple[ModelSession, Drafter]]


def measure(begin: Begin) -> Costs:
    """Measure passes and levels after random prompts. `begin(prompt[P])` starts a request.

    At most 3 seconds for a target up to 100 M parameters on an idle machine; a larger one gets one
    round: 16 passes.
    """
    target, _ = begin([0])
    room = target.positions - max(ROWS) * 2
    contexts = [max(1 + i, min(length, room)) for i, length in enumerate(CONTEXTS)]
    timed = [_measured(begin, length) for length in contexts]
    return Costs(
        contexts=(contexts[0], contexts[1]),
        rows=ROWS,
        target=(timed[0].times("pass", ROWS), timed[1].times("pass", ROWS)),
        widths=WIDTHS,
        draft=(timed[0].times("level", WIDTHS), timed[1].times("level", WIDTHS)),
        noise=max(each.noise for each in timed),
    )


def _measured(begin: Begin, length: int) -> Timed:
    rng = random.Random(0)  # noqa: S311 no secrets
    target, drafter = begin([rng.randrange(2) for _ in range(length)])
    rounds = ROUNDS if target.model.parameters <= SMALL else 1
    timed = Timed(target, drafter, rng)
    until = perf_counter() + SECONDS
    for _ in range(rounds):
        for count in ROWS:
            if rounds > 1 or count == ROWS[0]:
                timed.levels()
            timed.one_pass(count)
        if perf_counter() > until:
            break
    return timed


@define(eq=False)
class Timed:
    """One request that is decoded for the clock alone."""

    target: ModelSession
    drafter: Drafter
    rng: random.Random
    taken: defaultdict[tuple[str, int], list[float]] = field(factory=lambda: defaultdict(list))
    """Times in ms, by what and size."""

    def times(self, what: str, sizes: tuple[int, ...]) -> tuple[float, ...]:
        """The least times, none above that of a larger size."""
        return tuple(
            min(min(self.taken[what, more]) for more in sizes if more >= size) for size in sizes
        )

    @property
    def noise(self) -> float:
        """How much longer than the least times things typically took."""
        return median(median(times) / min(times) for times in self.taken.values())

    def levels(self) -> None:
        """Time a level of every width, in one tree, each from nodes that are new to the drafter."""
        tree = self._grown(TokenTree.root(self._token()), 0, 16)
        self.drafter.expand(tree, [0], CHILDREN)  # caches the root
        first = 1
        for width in WIDTHS[:-1]:
            tree = self._level(tree, list(range(first, first + width)))
            first += width
        count = len(tree)
        tree = self._grown(tree, 1, WIDTHS[-1])
        self._level(tree, list(range(count, len(tree))))

    def _level(self, tree: TokenTree, frontier: list[int]) -> TokenTree:
        began = perf_counter()
        tree = tree.grow(frontier, self.drafter.expand(tree, frontier, CHILDREN))
        self._note("level", len(frontier), began)
        return tree

    def one_pass(self, count: int) -> None:
        """Time a pass over a root with `count` − 1 children."""
        tree = self._grown(TokenTree.root(self._token()), 0, count - 1)
        began = perf_counter()
        logits = self.target.forward(tree.tokens, tree.parents)
        logits.max(-1).indices.tolist()
        self.target.commit([0])
        self.drafter.commit(tree.tokens[:1])
        self._note("pass", count, began)

    def _grown(self, tree: TokenTree, node: int, children: int) -> TokenTree:
        tokens = [self._token() for _ in range(children)]
        return tree.grow([node], Candidates([tokens], [[-1.0] * children]))

    def _token(self) -> int:
        return self.rng.randrange(self.target.vocabulary)

    def _note(self, what: str, size: int, began: float) -> None:
        self.taken[what, size].append(1e3 * (perf_counter() - began))


def fingerprint(models: list[LoadedModel], specs: dict[str, str]) -> str:
    """What a measurement holds for: machine, libraries, threads, models by shape, strategies."""
    shapes = [
        {**model.config.to_dict(), "_name_or_path": None, "dtype": str(model.dtype)}
        for model in models
    ]
    what = {
        "code": sources(),
        "machine": [platform.node(), cpu_name(), os.cpu_count()],
        "device": [_device(model.device) for model in models],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "executor": [(model.executor.why, model.executor.linears) for model in models],
        "models": shapes,
        "specs": specs,
    }
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _file(key: str) -> Path:
    return cache_folder("costs") / f"{key}.json"


def stored(key: str) -> Costs | None:
    """What was stored under a fingerprint; None when there is nothing that can be read."""
    try:
        return cattrs.structure(json.loads(_file(key).read_text()), Costs)
    except Exception:  # noqa: BLE001 absent, torn or of another format: measure anew
        return None


def store(key: str, costs: Costs) -> None:
    """Keep a measurement of a machine that was not busy; two processes may do so at once. A folder
    that cannot be written to is no error: the next process measures again."""
    if costs.noise > BUSY:
        return
    try:
        handle, name = tempfile.mkstemp(dir=_file(key).parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(cattrs.unstructure(costs), file)
        Path(name).replace(_file(key))
    except OSError:
        return
