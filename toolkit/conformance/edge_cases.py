"""Correct strategies that behave in extreme ways.

The kit combines a strategy under test with them, because drafts that are always wrong and trees that
are very wide or empty find more bugs than usual ones. The kit must also pass them: that shows that its
properties are not too strict.
"""

from __future__ import annotations

import random
from math import inf, log

import attrs
from torch import Tensor

from toolkit.conformance.models import EXACT_MODEL, VOCABULARY
from toolkit.conformance.tree_paths import path_to, tokens_to
from toolkit.interfaces import (
    Drafter,
    Expand,
    MaskPolicy,
    Runtime,
    Session,
    TreeShaper,
    Verifier,
)
from toolkit.sampling import Sampler
from toolkit.tree import Candidates, TokenTree, Verdict


@attrs.define(eq=False)
class Oracle(Drafter):
    """Always right under the target's KV policy: proposes what a copy of the target says next."""

    name = "oracle"
    _session: Session = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._session = runtime.session(EXACT_MODEL)
        self._session.prefill(prompt)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        logprobs, tokens = _after(self._session, tree, frontier).topk(min(k, VOCABULARY))
        return Candidates(tokens.tolist(), logprobs.tolist())

    def commit(self, tokens: list[int]) -> None:
        self._session.prefill(tokens)


@attrs.define(eq=False)
class Contrary(Drafter):
    """Always wrong: proposes what a copy of the target finds least likely."""

    name = "contrary"
    _session: Session = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._session = runtime.session(EXACT_MODEL)
        self._session.prefill(prompt)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        worst = _after(self._session, tree, frontier).topk(min(k, VOCABULARY // 2), largest=False)
        return Candidates(worst.indices.flip(1).tolist(), worst.values.flip(1).tolist())

    def commit(self, tokens: list[int]) -> None:
        self._session.prefill(tokens)


def _after(session: Session, tree: TokenTree, frontier: list[int]) -> Tensor:
    """Log-probabilities [F, V] after frontier nodes. The session keeps nothing of the tree."""
    logits = session.forward(tree.tokens, tree.parents)
    session.commit([])
    return logits[frontier].log_softmax(-1)


@attrs.define(eq=False)
class Scatter(Drafter):
    """Random tokens, seeded by the node's path: stop ids, duplicates and empty slots among them."""

    name = "scatter"

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        rngs = [random.Random(str(tokens_to(tree, node))) for node in frontier]
        tokens = [[rng.randrange(VOCABULARY) for _ in range(k)] for rng in rngs]
        logprobs = [log(1 / (k + 1)) if rank <= k // 2 else -inf for rank in range(k)]
        return Candidates(tokens, [logprobs] * len(frontier))

    def commit(self, tokens: list[int]) -> None:
        pass


@attrs.define(eq=False)
class Echo(Drafter):
    """Proposes each node's own token again."""

    name = "echo"

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        return Candidates([[tree.tokens[node]] for node in frontier], [[-0.7]] * len(frontier))

    def commit(self, tokens: list[int]) -> None:
        pass


@attrs.define
class Empty(TreeShaper):
    """Drafts nothing: every tree is only its root."""

    name = "empty"

    @property
    def nodes(self) -> int:
        return 1

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        return root


@attrs.define
class Wide(TreeShaper):
    """A star: up to 40 children of the root and nothing below them."""

    name = "wide"

    @property
    def nodes(self) -> int:
        return 41

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        return root.grow([0], expand(root, [0], 40))


@attrs.define
class Wild(TreeShaper):
    """Random trees that mostly ignore the drafter: any shape and tokens, deeper than can be emitted."""

    name = "wild"
    seed: int = 0
    size: int = 12
    _step: int = attrs.field(init=False, default=0)

    @property
    def nodes(self) -> int:
        return self.size

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        rng, tree = random.Random(f"{self.seed} {self._step}"), root
        [drafted] = expand(root, [0], 1).tokens
        self._step += 1
        for _ in range(rng.randrange(self.size)):
            parent = rng.choice([len(tree) - 1, rng.randrange(len(tree))])
            token = rng.choice([*drafted, rng.randrange(VOCABULARY), rng.randrange(4)])
            tree = tree.grow([parent], Candidates([[token]], [[-rng.random()]]))
        return tree


@attrs.define
class LastOfEquals(Verifier):
    """Greedy; of equally long accepted paths it takes the last one."""

    name = "last-of-equals"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice, last = logits.argmax(-1).tolist(), {0: 0}
        for node in range(1, len(tree)):
            parent = tree.parents[node]
            if parent in last and tree.tokens[node] == choice[parent]:
                last[node] = last[parent] + 1
        tip = max(last, key=lambda node: (last[node], node))
        return Verdict(path_to(tree, tip), choice[tip])


@attrs.define
class Blind(MaskPolicy):
    """Each position sees only itself."""

    name = "blind"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return query_pos == key_pos


@attrs.define
class Alternate(MaskPolicy):
    """Even positions stay visible, odd ones do not."""

    name = "alternate"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (key_pos % 2 == 0) & (query_pos >= 0)


DRAFTERS = (Oracle, Contrary, Scatter, Echo)
SHAPERS = (Empty, Wide, Wild)
VERIFIERS = (LastOfEquals,)
POLICIES = (Blind, Alternate)
