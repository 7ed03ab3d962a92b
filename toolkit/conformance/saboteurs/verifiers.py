"""Sabotaged verifiers."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from toolkit.interfaces import Proposal, Verifier
from toolkit.tree import TokenTree, Verdict

ANY: frozenset[Proposal] = frozenset({"fixed", "sampled"})


def _right(tree: TokenTree, choice: Tensor) -> Tensor:
    """Nodes that are what the target says after their parents: bool [N]."""
    right = tree.tokens == choice[tree.parents]
    right[0] = True
    return right


def _deepest(tree: TokenTree, right: Tensor) -> Any:
    """The deepest node that is right and below right nodes only."""
    return torch.where(~(tree.ancestors() & ~right).any(1), tree.depths, -1).argmax()


def _verdict(tree: TokenTree, last: Any, bonus: Tensor) -> Verdict:
    return Verdict(tree.ancestors()[last].nonzero().flatten(), bonus)


@attrs.define
class OneTooMany(Verifier):
    """Accepts the first child of the last right node, whatever the target says."""

    name = "one-too-many"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice = logits.argmax(-1)
        right = tree.tokens == choice[tree.parents]
        right[0] = True
        lineage = tree.ancestors()
        last = torch.where(~(lineage & ~right).any(1), tree.depths, -1).argmax()
        children = (tree.parents == last).nonzero().flatten()
        last = children[0] if len(children) else last
        return Verdict(lineage[last].nonzero().flatten(), choice[last])


@attrs.define
class BonusOfTheRoot(Verifier):
    """The bonus is what the target says after the root, wherever the path has ended."""

    name = "bonus-of-the-root"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice = logits.argmax(-1)
        return _verdict(tree, _deepest(tree, _right(tree, choice)), choice[0])


@attrs.define
class ForgetsAncestors(Verifier):
    """Accepts a node that is right after its parent, whether or not the parent was right."""

    name = "forgets-ancestors"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice = logits.argmax(-1)
        last = torch.where(_right(tree, choice), tree.depths, -1).argmax()
        return _verdict(tree, last, choice[last])


@attrs.define
class TiesToTheLast(Verifier):
    """Of equal logits it takes the last, and AR the first."""

    name = "ties-to-the-last"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice = logits.shape[1] - 1 - logits.flip(-1).argmax(-1)
        last = _deepest(tree, _right(tree, choice))
        return _verdict(tree, last, choice[last])


@attrs.define
class FirstChildOnly(Verifier):
    """Follows first children alone: a chain's verifier on a tree."""

    name = "first-child-only"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice, last = logits.argmax(-1), 0
        while len(children := (tree.parents == last).nonzero().flatten()):
            if tree.tokens[children[0]] != choice[last]:
                break
            last = int(children[0])
        return _verdict(tree, last, choice[last])


@attrs.define
class Cautious(Verifier):
    """Accepts the less, the more it has judged."""

    name = "cautious"
    exactness = "greedy"
    assumes = ANY
    judged: int = 0

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        self.judged += 1
        choice = logits.argmax(-1)
        right = _right(tree, choice) & (tree.depths < 4 // self.judged)
        right[0] = True
        last = _deepest(tree, right)
        return _verdict(tree, last, choice[last])


@attrs.define
class Scribbles(Verifier):
    """Works on the logits themselves, and leaves them changed."""

    name = "scribbles"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        logits -= logits.max(-1, keepdim=True).values
        choice = logits.argmax(-1)
        last = _deepest(tree, _right(tree, choice))
        return _verdict(tree, last, choice[last])


@attrs.define
class TossesForTies(Verifier):
    """Draws among equal logits, and from the global generator."""

    name = "tosses-for-ties"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        choice = (logits + 1e-9 * torch.rand_like(logits)).argmax(-1)
        last = _deepest(tree, _right(tree, choice))
        return _verdict(tree, last, choice[last])
