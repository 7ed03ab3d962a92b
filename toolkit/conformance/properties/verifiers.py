"""Properties of a verifier."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from toolkit.conformance import enumeration
from toolkit.conformance.comparison import GLOBAL_RANDOM, Broken
from toolkit.interfaces import Verifier
from toolkit.proposer import Proposal
from toolkit.sampling import Sampler, Sampling
from toolkit.tree import TokenTree


def accepts_what_ar_says(
    verifier: Verifier, tree: TokenTree, logits: Tensor, sampler: Sampler
) -> None:
    """The accepted path is the longest that follows AR's tokens (at temperature 0 the target's argmax),
    and the bonus token is AR's after it."""
    verdict = verifier.judge(tree, logits, sampler)
    rows = zip(logits, tree.depths, strict=True)
    choice = [sampler.token(row, depth) for row, depth in rows]
    reached = {0: 1}
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        if parent in reached and tree.tokens[node] == choice[parent]:
            reached[node] = reached[parent] + 1
    path = verdict.path
    steps = zip([-1, *path[:-1]], path, strict=True)
    if not path or any(n not in reached or tree.parents[n] != p for p, n in steps):
        raise Broken(
            f"path {path} is not one that AR takes; AR reaches the nodes {sorted(reached)}"
        )
    if len(path) != max(reached.values()):
        raise Broken(f"path {path} stops early: {max(reached.values())} nodes are right")
    if verdict.bonus != choice[path[-1]]:
        raise Broken(f"the bonus is {verdict.bonus}, but the target says {choice[path[-1]]}")


def law_is_the_targets(
    make: Callable[[], Verifier],
    trees: Sequence[TokenTree],
    seed: int,
    sampling: Sampling,
    proposal: Proposal | Literal["mixed"],
) -> set[int]:
    """The text that two steps emit has exactly the law of AR's, by enumeration of every random number;
    returns the numbers of tokens that the steps may emit together.

    There is one tree for each step. If they are not `fixed`, only the numbers of children count, and
    the tokens are drawn from a drafter's law; in `mixed` ones each first child is chosen without
    chance.
    `seed` chooses the target and the drafter.
    """
    languages = (enumeration.language(seed + i, enumeration.VOCABULARY) for i in range(2))
    target, draft = languages

    def grow(step: int, text: enumeration.Text, chance: enumeration.Chance) -> TokenTree:
        if proposal == "fixed":
            return attrs.evolve(trees[step], tokens=[text[-1], *trees[step].tokens[1:]])
        fixed, replace = int(proposal == "mixed"), proposal == "iid"
        return enumeration.redrawn(trees[step], text, draft, chance, fixed=fixed, replace=replace)

    law = enumeration.emitted(make, target, grow, sampling, len(trees))
    error = enumeration.worst_error(law, target, sampling)
    if error > enumeration.ROUNDING:
        shapes = [(tree.tokens[1:], tree.parents[1:]) for tree in trees]
        raise Broken(
            f"the probability of a text is off by {error:.2g}, after {proposal} trees of tokens and "
            f"parents {shapes}, at {sampling}"
        )
    return {len(text) for text, probability in law.items() if probability > 0}


def siblings_in_any_order(
    verifier: Verifier, tree: TokenTree, logits: Tensor, sampler: Sampler, rng: random.Random
) -> None:
    """The order of a tree's nodes does not change the committed tokens."""
    order = _shuffle(tree, rng)
    where = {old: new for new, old in enumerate(order)}
    reordered = TokenTree(
        [tree.tokens[old] for old in order],
        [where.get(tree.parents[old], -1) for old in order],
        [tree.depths[old] for old in order],
        [tree.logprobs[old] for old in order],
        [tree.path_logprobs[old] for old in order],
    )
    ours = verifier.judge(tree, logits, sampler)
    theirs = verifier.judge(reordered, logits[order], sampler)
    said = [*(tree.tokens[node] for node in ours.path), ours.bonus]
    said_reordered = [*(reordered.tokens[node] for node in theirs.path), theirs.bonus]
    if said != said_reordered:
        raise Broken(
            f"commits {said}, but {said_reordered} in another order; parents {tree.parents}"
        )


def _shuffle(tree: TokenTree, rng: random.Random) -> list[int]:
    """The node ids in a random order that keeps parents before children."""
    order, waiting = [0], list(range(1, len(tree)))
    while waiting:
        pick = rng.choice([n for n in waiting if tree.parents[n] in order])
        order.append(pick)
        waiting.remove(pick)
    return order


def judges_without_memory(
    make: Callable[[], Verifier], cases: Sequence[tuple[TokenTree, Tensor]], sampling: Sampling
) -> None:
    """A verdict depends only on the tree, the logits and the sampler, and does not change them."""
    used = make()
    for tree, logits in cases:
        before = attrs.astuple(tree), logits.clone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            state = torch.get_rng_state()
            ours = used.judge(tree, logits, Sampler(sampling, 3))
            if not torch.equal(torch.get_rng_state(), state):
                raise Broken(GLOBAL_RANDOM)
        if attrs.astuple(tree) != before[0] or not torch.equal(logits, before[1]):
            raise Broken("judge changed the tree or the logits, which are shared: copy them first")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            fresh = make().judge(tree, logits, Sampler(sampling, 3))
        if attrs.astuple(ours) != attrs.astuple(fresh):
            raise Broken(
                f"path {ours.path} and bonus {ours.bonus}, but a new verifier gives path {fresh.path} "
                f"and bonus {fresh.bonus}"
            )
