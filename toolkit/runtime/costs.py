"""Measure what passes cost on this machine, and remember it from one process to the next.

Of several rounds the least time counts, and a small pass never counts as dearer than a larger one:
whatever disturbs a measurement adds to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import cattrs
import torch
from attrs import define, field
from torch import Tensor

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

Begin = Callable[[Tensor], tuple[ModelSession, Drafter]]


def measure(begin: Begin) -> Costs:
    """Measure passes and levels after random prompts. `begin(prompt[P])` starts a request.

    At most 3 seconds for a target up to 100 M parameters on an idle machine; a larger one gets one
    round: 16 passes.
    """
    target, _ = begin(torch.zeros(1, dtype=torch.long))
    room = target.positions - max(ROWS) * 2
    contexts = [max(1 + i, min(length, room)) for i, length in enumerate(CONTEXTS)]
    timed = [_measured(begin, length) for length in contexts]
    return Costs(
        contexts=(contexts[0], contexts[1]),
        rows=ROWS,
        target=(timed[0].times("pass", ROWS), timed[1].times("pass", ROWS)),
        widths=WIDTHS,
        draft=(timed[0].times("level", WIDTHS), timed[1].times("level", WIDTHS)),
    )


def _measured(begin: Begin, length: int) -> Timed:
    rng = torch.Generator().manual_seed(0)
    target, drafter = begin(torch.randint(2, (length,), generator=rng))
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
    rng: torch.Generator
    least: dict[tuple[str, int], float] = field(factory=dict)  # ms, by what and size

    def times(self, what: str, sizes: tuple[int, ...]) -> tuple[float, ...]:
        """The least times, none above that of a larger size."""
        return tuple(
            min(self.least[what, more] for more in sizes if more >= size) for size in sizes
        )

    def levels(self) -> None:
        """Time a level of every width, in one tree, each from nodes that are new to the drafter."""
        tree = self._grown(TokenTree.root(self._tokens(1)), torch.zeros(1, dtype=torch.long), 16)
        self.drafter.expand(tree, torch.zeros(1, dtype=torch.long), CHILDREN)  # caches the root
        first = 1
        for width in WIDTHS[:-1]:
            tree = self._level(tree, torch.arange(first, first + width))
            first += width
        count = len(tree)
        tree = self._grown(tree, torch.ones(1, dtype=torch.long), WIDTHS[-1])  # below node 1
        self._level(tree, torch.arange(count, len(tree)))

    def _level(self, tree: TokenTree, frontier: Tensor) -> TokenTree:
        began = perf_counter()
        tree = tree.grow(frontier, self.drafter.expand(tree, frontier, CHILDREN))
        self._note("level", len(frontier), began)
        return tree

    def one_pass(self, count: int) -> None:
        """Time a pass over a root with `count` − 1 children."""
        tree = self._grown(
            TokenTree.root(self._tokens(1)), torch.zeros(1, dtype=torch.long), count - 1
        )
        began = perf_counter()
        logits = self.target.forward(tree.tokens, tree.parents)
        int(logits.max(-1).indices.to(tree.tokens.device)[tree.ancestors().any(0)].sum())
        self.target.commit(torch.zeros(1, dtype=torch.long))
        self.drafter.commit(tree.tokens[:1])
        self._note("pass", count, began)

    def _grown(self, tree: TokenTree, frontier: Tensor, children: int) -> TokenTree:
        tokens = self._tokens(children)[None]
        return tree.grow(frontier, Candidates(tokens, torch.full(tokens.shape, -1.0)))

    def _tokens(self, count: int) -> Tensor:
        return torch.randint(self.target.vocabulary, (count,), generator=self.rng)

    def _note(self, what: str, size: int, began: float) -> None:
        spent = 1e3 * (perf_counter() - began)
        self.least[what, size] = min(spent, self.least.get((what, size), spent))


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
    """Keep a measurement; two processes may do so at once. A folder that cannot be written to is
    no error: the next process measures again."""
    try:
        handle, name = tempfile.mkstemp(dir=_file(key).parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(cattrs.unstructure(costs), file)
        Path(name).replace(_file(key))
    except OSError:
        return
