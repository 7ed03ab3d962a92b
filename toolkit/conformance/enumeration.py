"""Full enumeration: the exact law of what a verifier emits, over every outcome of every random number.

An experiment is a function of a `Chance`. It is run once for each combination of outcomes, in float64,
so that a law is compared to rounding and not by statistics.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from toolkit.conformance.tree_paths import tokens_to
from toolkit.interfaces import Verifier
from toolkit.sampling import Sampler, Sampling
from toolkit.tree import Candidates, TokenTree

VOCABULARY = 3
ROUNDING = 1e-12  # laws are summed in float64
Result = TypeVar("Result")
Text = tuple[int, ...]
Language = Callable[[Text], Tensor]  # a text → the target's logits [V] after it
Grow = Callable[[int, Text, "Chance"], TokenTree]  # step and text → the tree that is drafted there


@attrs.define
class Chance:
    """The random numbers of one run: the first ones as in `script`, then the first possible outcome.

    `key` names a random number that is asked for more than once: a uniform u, which gives the outcome i
    with F(i − 1) ≤ u < F(i). Each outcome narrows the interval in which u lies.
    """

    script: Sequence[int] = ()
    taken: list[tuple[int, list[float]]] = attrs.field(factory=list)  # outcomes, and their law
    known: dict[Any, tuple[float, float]] = attrs.field(factory=dict)

    def choose(self, law: Sequence[float], key: Any = None) -> int:
        """An outcome, an index into `law`, which adds up to 1."""
        low, high = self.known.get(key, (0.0, 1.0))
        edges = [0.0, *itertools.accumulate(law)]
        edges[-1] = max(edges[-1], 1.0)
        spans = [(max(low, a), min(high, b)) for a, b in itertools.pairwise(edges)]
        shares = [max(0.0, b - a) / (high - low) for a, b in spans]
        turn = len(self.taken)
        outcome = self.script[turn] if turn < len(self.script) else _next(shares, -1)
        self.taken.append((outcome, shares))
        if key is not None:
            self.known[key] = spans[outcome]
        return outcome

    @property
    def probability(self) -> float:
        """The probability of this run: the product over its outcomes."""
        return prod(shares[outcome] for outcome, shares in self.taken)


def _next(shares: Sequence[float], outcome: int) -> int:
    """The next outcome that is possible; −1 after the last."""
    return next((i for i in range(outcome + 1, len(shares)) if shares[i] > 0), -1)


def every_run(experiment: Callable[[Chance], Result]) -> Iterator[tuple[float, Result]]:
    """Run an experiment for every combination of outcomes; yields probabilities and results."""
    script: list[int] | None = []
    while script is not None:
        chance = Chance(script)
        result = experiment(chance)
        yield chance.probability, result
        script = _following(chance.taken)


def _following(taken: list[tuple[int, list[float]]]) -> list[int] | None:
    """The script of the next run, depth first; None after the last."""
    for turn in reversed(range(len(taken))):
        outcome, shares = taken[turn]
        further = _next(shares, outcome)
        if further >= 0:
            return [*(earlier for earlier, _ in taken[:turn]), further]
    return None


@attrs.frozen(eq=False)
class ChanceSampler(Sampler):
    """A sampler whose random numbers are those of a `Chance`."""

    chance: Chance = attrs.field(kw_only=True)

    def token(self, logits: Tensor, depth: int) -> int:
        return self.chance.choose(self.law(logits).tolist(), key=self.position + depth + 1)

    def accepts(self, probability: float) -> bool:
        share = min(max(probability, 0.0), 1.0)
        return self.chance.choose([1.0 - share, share]) == 1

    def draw(self, weights: Tensor) -> int:
        return self.chance.choose((weights.double() / weights.double().sum()).tolist())


def language(seed: int, vocabulary: int) -> Language:
    """A target whose logits differ from text to text, some of them far apart."""

    def logits(text: Text) -> Tensor:
        rng = torch.Generator().manual_seed(hash((seed, *text)) % 2**31)
        return 1.5 * torch.randn(vocabulary, generator=rng, dtype=torch.double)

    return logits


def redrawn(
    shape: TokenTree,
    text: Text,
    draft: Language,
    chance: Chance,
    *,
    fixed: int = 0,
    replace: bool = False,
) -> TokenTree:
    """A tree with the children counts of `shape`, drawn by softmax(draft), with or without replacement.

    The first `fixed` children of each node are the likeliest tokens, not drawn. Where all tokens are
    drawn already, a child and what is below it are left out.
    """
    tree, where = TokenTree.root(text[-1]), {0: 0}
    left: dict[int, Tensor] = {}
    placed: Counter[int] = Counter()
    for node, parent in enumerate(shape.parents[1:], 1):
        above = where.get(parent, -1)
        if above < 0:
            continue
        if above not in left:
            left[above] = draft((*text, *tokens_to(tree, above)[1:])).softmax(-1)
        law = tree.laws.get(above, left[above])
        if not left[above].any():
            continue
        chosen = placed[above] < fixed
        placed[above] += 1
        shares = (left[above] / left[above].sum()).tolist()
        token = int(left[above].argmax()) if chosen else chance.choose(shares)
        if not replace:
            left[above] = left[above].index_fill(0, torch.tensor([token]), 0.0)
        where[node] = len(tree)
        logprob = float(law[token].log())
        tree = tree.grow([above], Candidates([[token]], [[logprob]], law[None], int(chosen)))
    return tree


def emitted(
    make: Callable[[], Verifier],
    target: Language,
    grow: Grow,
    sampling: Sampling,
    steps: int,
    sampler: Callable[..., Sampler] = ChanceSampler,
) -> dict[Text, float]:
    """The law of the text that some steps of decoding emit after the text (0,): text → probability."""

    def experiment(chance: Chance) -> Text:
        text: Text = (0,)
        for step in range(steps):
            tree = grow(step, text, chance)
            logits = [target((*text, *tokens_to(tree, node)[1:])) for node in range(len(tree))]
            drawn = sampler(sampling, 0, len(text) - 1, chance=chance)
            verdict = make().judge(tree, torch.stack(logits), drawn)
            text = (*text, *(tree.tokens[node] for node in verdict.path[1:]), verdict.bonus)
        return text[1:]

    law: defaultdict[Text, float] = defaultdict(float)
    for probability, text in every_run(experiment):
        law[text] += probability
    return dict(law)


def worst_error(law: dict[Text, float], target: Language, sampling: Sampling) -> float:
    """How far a law of texts is from AR's: the largest difference between probabilities of texts that
    AR has completed to the length of the longest."""
    length, processed = max(map(len, law)), Sampler(sampling)
    known: dict[Text, list[float]] = {}

    def continued(text: Text, rest: Text) -> float:
        share = 1.0
        for token in rest:
            if text not in known:
                known[text] = processed.law(target((0, *text))).tolist()
            share *= known[text][token]
            text = (*text, token)
        return share

    vocabulary = len(target((0,)))
    worst = abs(sum(law.values()) - 1.0)
    for whole in itertools.product(range(vocabulary), repeat=length):
        ours = sum(
            law.get(whole[:cut], 0.0) * continued(whole[:cut], whole[cut:])
            for cut in range(length + 1)
        )
        worst = max(worst, abs(ours - continued((), whole)))
    return worst
