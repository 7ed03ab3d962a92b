"""What all tests share: quick settings, tiny models, and a language model made of hashes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sysconfig
import venv
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from math import inf, log
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in what tests start
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ.pop("PIP_CONSTRAINT", None)  # relative to the checkout, and tests run pip elsewhere
os.environ.pop("PIP_BUILD_CONSTRAINT", None)
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import attrs
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from toolkit import Candidates, Registry, Strategy, TokenTree
from toolkit.proposer import Proposer

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background start without one
for name, examples in {"quick": 25, "thorough": 250, "nightly": 2500}.items():
    settings.register_profile(
        name, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow],
        stateful_step_count=20,
    )
settings.load_profile(os.environ.get("TOOLKIT_PROFILE", "quick"))


@attrs.frozen
class HashModel:
    """A language model without weights: logits are drawn by a hash of the last tokens."""

    seed: int = 0
    vocabulary: int = 11
    order: int = 3

    def logits(self, text: Sequence[int]) -> Tensor:
        rng = random.Random(f"{self.seed} {list(text[-self.order:])}")
        return torch.tensor([rng.gauss(0, 2) for _ in range(self.vocabulary)], dtype=torch.float64)

    def greedy(self, prompt: Sequence[int], count: int, stop: Collection[int] = ()) -> list[int]:
        """The slow reference: one token after another."""
        new: list[int] = []
        while len(new) < count and not (new and new[-1] in stop):
            new.append(int(self.logits([*prompt, *new]).argmax()))
        return new


@attrs.define(eq=False)
class HashSession:
    """`Session` over a `HashModel`, which remembers every row that it was asked to forward."""

    model: HashModel
    positions: int = 1 << 30
    committed: list[int] = attrs.field(factory=list)
    rows: list[tuple[int, ...]] = attrs.field(factory=list)  # scratch: tokens after the prefix
    forwarded: list[tuple[int, ...]] = attrs.field(factory=list)  # whole texts, of all forwards
    forwards: int = 0

    @property
    def length(self) -> int:
        return len(self.committed)

    @property
    def scratch(self) -> int:
        return len(self.rows)

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    @property
    def max_draft_depth(self) -> int:
        return 1 << 30

    def prefill(self, tokens: list[int]) -> Tensor:
        rows = list(range(len(tokens)))
        logits = self.forward(tokens, [row - 1 for row in rows])
        self.commit(rows)
        return logits[-1]

    def forward(self, tokens: list[int], parents: list[int]) -> Tensor:
        self.forwards += 1
        first = len(self.rows)
        for token, parent in zip(tokens, parents, strict=True):
            assert 0 <= token < self.vocabulary
            above = self.rows[parent] if parent >= 0 else ()
            self.rows.append((*above, token))
        texts = [(*self.committed, *row) for row in self.rows[first:]]
        assert max(map(len, texts)) <= self.positions
        self.forwarded += texts
        return torch.stack([self.model.logits(text) for text in texts])

    def commit(self, rows: list[int]) -> None:
        path = [self.rows[row] for row in rows]
        assert [len(row) for row in path] == list(range(1, len(path) + 1))
        assert all(longer[:-1] == row for row, longer in pairwise(path))
        self.committed += path[-1] if path else ()
        self.rows = []


@attrs.define(eq=False)
class HashRuntime:
    """`Runtime` that lends sessions of one `HashModel`."""

    model: HashModel
    vocabulary: int
    positions: int = 1 << 30
    sessions: list[HashSession] = attrs.field(factory=list)
    proposer: Proposer = Proposer()
    target: HashSession | None = None  # drafted for, where the position of the root matters

    def candidates(
        self, tree: TokenTree, frontier: list[int], logits: Tensor, k: int, **how: float
    ) -> Candidates:
        where = {"position": self.target.length if self.target else 0, "vocabulary": self.vocabulary}
        return self.proposer.candidates(tree, frontier, logits, k, **where, **how)

    def translation(self, model: str) -> None:
        """Every model has the same tokens."""

    def session(self, model: str) -> HashSession:
        self.sessions.append(HashSession(self.model, self.positions))
        return self.sessions[-1]

    def target_session(self) -> HashSession:
        return HashSession(self.model, self.positions)


@attrs.define(eq=False)
class Oracle:
    """`expand` by a function from a node's path to its candidates' probabilities, likeliest first."""

    after: Callable[[tuple[int, ...]], dict[int, float]]
    frontiers: list[list[int]] = attrs.field(factory=list)

    def __call__(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        self.frontiers.append(list(frontier))
        rows = [list(self.after(path_of(tree, node)).items())[:k] for node in frontier]
        return Candidates(
            [[token for token, _ in row] for row in rows],
            [[log(share) if share else -inf for _, share in row] for row in rows],
        )


def path_of(tree: TokenTree, node: int) -> tuple[int, ...]:
    """The tokens from the root to a node."""
    path: list[int] = []
    while node >= 0:
        path.append(tree.tokens[node])
        node = tree.parents[node]
    return tuple(path[::-1])


def plant(rows: Sequence[tuple[int, int, float]], root: int = 0) -> TokenTree:
    """A tree of a root and (parent, token, log-probability) rows; parents wrap around."""
    tree = TokenTree.root(root)
    for parent, token, logprob in rows:
        tree = tree.grow([parent % len(tree)], Candidates([[token]], [[logprob]]))
    return tree


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.installed()


@pytest.fixture(scope="session")
def make(registry: Registry) -> Callable[[str, str], Strategy]:
    """`make("shaper", "chain:k=3")`: a fresh strategy."""
    return lambda kind, spec: registry.resolve(kind, spec).build()


@pytest.fixture(scope="session", name="plant")
def _plant() -> Callable[..., TokenTree]:
    return plant


@pytest.fixture(scope="session", name="path_of")
def _path_of() -> Callable[[TokenTree, int], tuple[int, ...]]:
    return path_of


@pytest.fixture(scope="session", name="hash_model")
def _hash_model() -> type[HashModel]:
    return HashModel


@pytest.fixture(scope="session", name="hash_session")
def _hash_session() -> type[HashSession]:
    return HashSession


@pytest.fixture(scope="session", name="hash_runtime")
def _hash_runtime() -> type[HashRuntime]:
    return HashRuntime


@pytest.fixture(scope="session", name="oracle_of")
def _oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, in a process that remembers nothing and has warned of nothing.

    A process remembers what it timed while the machine was busy, so that without this a test can read
    what an earlier one stored.
    """
    from toolkit.runtime.machine import disk, remembered

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(disk, "_said", {})
    monkeypatch.setattr(remembered, "_of_this_process", {})
    disk.private_folder.cache_clear()
    yield tmp_path
    disk.private_folder.cache_clear()


@attrs.frozen
class Stranger:
    """An environment in which nothing of ours is installed, and everything of ours is at hand."""

    folder: Path

    def run(self, line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a shell line with this environment's programs first, and without a network."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        return subprocess.run(
            line, shell=True, cwd=cwd, capture_output=True, text=True, timeout=600, check=False,
            env={**os.environ, **offline, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )  # fmt: skip


PROGRAMS = {
    "pip": "-m pip",
    "pytest": "-m pytest -p no:cacheprovider",
    "toolkit": "-c 'from toolkit.cli import main; main(prog_name=\"toolkit\")'",
}


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A virtual environment that sees this one's packages and keeps what it installs to itself."""
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder, system_site_packages=True, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    for name, arguments in PROGRAMS.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -P {arguments} "$@"\n')
        script.chmod(0o755)
    return Stranger(folder)
