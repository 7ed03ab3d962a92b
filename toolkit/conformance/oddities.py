"""Strategies that are correct and odd: nothing may fail on them, and they make good company.

The kit pairs a strategy under test with them, because what is always wrong, far too wide or empty
finds more than what is sensible; and it is tested on them itself, because a test can be too strict.
"""

from __future__ import annotations

import random

import attrs
import torch
from torch import Tensor

from toolkit.conformance.models import EXACT_MODEL, VOCABULARY
from toolkit.interfaces import (
    Drafter,
    Expand,
    KVPolicy,
    Runtime,
    Session,
    TreeShaper,
    Verifier,
)
from toolkit.tree import Candidates, TokenTree, Verdict


@attrs.define(eq=False)
class Oracle(Drafter):
    """Always right, under the target's KV policy: proposes what a copy of the target says."""

    name = "oracle"
    _session: Session = attrs.field(init=False)

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        self._session = runtime.session(EXACT_MODEL)
        self._session.prefill(prompt)

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        logprobs, tokens = _after(self._session, tree, frontier).topk(min(k, VOCABULARY))
        return Candidates(tokens, logprobs)

    def commit(self, tokens: Tensor) -> None:
        self._session.prefill(tokens)


@attrs.define(eq=False)
class Contrary(Drafter):
    """Always wrong, likewise: proposes what a copy of the target would say last."""

    name = "contrary"
    _session: Session = attrs.field(init=False)

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        self._session = runtime.session(EXACT_MODEL)
        self._session.prefill(prompt)

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        worst = _after(self._session, tree, frontier).topk(min(k, VOCABULARY // 2), largest=False)
        order = worst.values.argsort(descending=True)
        return Candidates(worst.indices.gather(1, order), worst.values.gather(1, order))

    def commit(self, tokens: Tensor) -> None:
        self._session.prefill(tokens)


def _after(session: Session, tree: TokenTree, frontier: Tensor) -> Tensor:
    """Log-probabilities [F, V] after frontier nodes; nothing of the tree is kept."""
    logits = session.forward(tree.tokens, tree.parents)
    session.commit(torch.zeros(0, dtype=torch.long))
    return logits[frontier].log_softmax(-1)


@attrs.define(eq=False)
class Scatter(Drafter):
    """Any tokens at all, by a hash of the node's path: stop ids, the same twice, empty slots."""

    name = "scatter"

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        lineage, rows = tree.ancestors(), []
        for node in frontier.tolist():
            path = tree.tokens[lineage[node].nonzero().flatten()].tolist()
            rng = random.Random(str(path))
            rows.append([rng.randrange(VOCABULARY) for _ in range(k)])
        logprobs = torch.full((len(rows), k), 1 / (k + 1)).log()
        logprobs[:, k // 2 + 1 :] = -torch.inf
        return Candidates(torch.tensor(rows, dtype=torch.long).reshape(len(rows), k), logprobs)

    def commit(self, tokens: Tensor) -> None:
        pass


@attrs.define(eq=False)
class Echo(Drafter):
    """Every token once more."""

    name = "echo"

    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        return Candidates(tree.tokens[frontier, None], torch.full((len(frontier), 1), -0.7))

    def commit(self, tokens: Tensor) -> None:
        pass


@attrs.define
class Empty(TreeShaper):
    """Never a draft: every tree is its root."""

    name = "empty"

    @property
    def nodes(self) -> int:
        return 1

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        return root


@attrs.define
class Wide(TreeShaper):
    """A star: as many children of the root as a drafter gives, and nothing below."""

    name = "wide"

    @property
    def nodes(self) -> int:
        return 41

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        frontier = torch.zeros(1, dtype=torch.long)
        return root.grow(frontier, expand(root, frontier, 40))


@attrs.define
class Wild(TreeShaper):
    """Trees that no drafter had a part in: deep beyond what can be emitted, any tokens, any shape."""

    name = "wild"
    seed: int = 0
    size: int = 12
    _step: int = attrs.field(init=False, default=0)

    @property
    def nodes(self) -> int:
        return self.size

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        rng, tree = random.Random(f"{self.seed} {self._step}"), root
        drafted = expand(root, torch.zeros(1, dtype=torch.long), 1).tokens.flatten().tolist()
        self._step += 1
        for _ in range(rng.randrange(self.size)):
            parent = rng.choice([len(tree) - 1, rng.randrange(len(tree))])
            token = rng.choice([*drafted, rng.randrange(VOCABULARY), rng.randrange(4)])
            one = Candidates(torch.tensor([[token]]), torch.tensor([[-rng.random()]]))
            tree = tree.grow(torch.tensor([parent]), one)
        return tree


@attrs.define
class LastOfEquals(Verifier):
    """Greedy; of nodes that are equally deep and equally right it takes the last."""

    name = "last-of-equals"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice, last = logits.argmax(-1).tolist(), {0: 0}
        for node in range(1, len(tree)):
            parent = int(tree.parents[node])
            if parent in last and int(tree.tokens[node]) == choice[parent]:
                last[node] = last[parent] + 1
        tip = max(last, key=lambda node: (last[node], node))
        return Verdict(tree.ancestors()[tip].nonzero().flatten(), torch.tensor(choice[tip]))


@attrs.define
class Blind(KVPolicy):
    """Every position sees itself alone."""

    name = "blind"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return query_pos == key_pos


@attrs.define
class Alternate(KVPolicy):
    """Of the past, every other position is seen."""

    name = "alternate"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (key_pos % 2 == 0) & (query_pos >= 0)


DRAFTERS = (Oracle, Contrary, Scatter, Echo)
SHAPERS = (Empty, Wide, Wild)
VERIFIERS = (LastOfEquals,)
POLICIES = (Blind, Alternate)
