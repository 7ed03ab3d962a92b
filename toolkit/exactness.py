"""Compares a generation with AR; the verdict is part of every result."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from toolkit.generation import Difference, Generation, Outcome, Verification
from toolkit.interfaces import Verifier
from toolkit.tree import TokenTree, Verdict

if TYPE_CHECKING:
    from toolkit.pipeline import Pipeline

ULPS = 2  # a margin of so many units in the last place is a numerical tie


def verify(pipeline: Pipeline, generation: Generation) -> Verification:
    """Compare a generation with AR of the same target under the same KV policy, token by token.

    A generation that drafted nothing is AR itself, and its verdict `inconclusive`; otherwise as
    `compare_with_ar`.
    """
    found = compare_with_ar(
        pipeline, generation.prompt_ids, generation.token_ids, stop=generation.stop
    )
    drafted = any(step.nodes > 1 for step in generation.steps)
    if drafted or found.verdict == "divergent":
        return found
    return attrs.evolve(found, verdict="inconclusive")


def compare_with_ar(
    pipeline: Pipeline, prompt_ids: list[int], token_ids: list[int], *, stop: Iterable[str] = ()
) -> Verification:
    """Run AR of the pipeline's target and KV policy and compare it with `token_ids`, token by token.

    At a difference AR's own logits decide. Within two units in the last place of the target's dtype
    it is a numerical tie: AR takes our token and goes on. Beyond, the verdict is `divergent`.
    """
    stream = pipeline.autoregressive.stream(prompt_ids, max_new_tokens=len(token_ids), stop=stop)
    watch = Watch(token_ids, stream.target.model.dtype)
    stream.strategies = attrs.evolve(stream.strategies, verifier=watch)
    for _ in stream.decode():
        if watch.divergent:
            break
    ar = stream.result
    if not watch.divergent and len(ar.token_ids) != len(token_ids):
        index = len(ar.token_ids)  # AR ended where the other went on
        watch.divergent = Difference(index, token_ids[index], -1, math.inf, 0.0)
    verdict: Outcome = "divergent" if watch.divergent else "tie" if watch.ties else "exact"
    first = watch.divergent or next(iter(watch.ties), None)
    return Verification(verdict, len(watch.ties), first, ar.tokens_per_s)


@attrs.define(eq=False)
class Watch(Verifier):
    """AR's verifier: greedy, and compares each token with the one that is expected."""

    name = "watch"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    expected: list[int]
    dtype: torch.dtype  # of the target's weights; its logits may be wider
    compared: int = 0  # tokens so far
    ties: list[Difference] = attrs.field(factory=list)
    divergent: Difference | None = None

    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        index, row = self.compared, logits[0]
        token, wanted = int(row.argmax()), self.expected[self.compared]
        self.compared += 1
        if token != wanted:
            margin, allowed = (
                float(row[token] - row[wanted]),
                ULPS * ulp(float(row[token]), self.dtype),
            )
            difference = Difference(index, wanted, token, margin, allowed)
            if margin <= allowed:
                self.ties.append(difference)
                token = wanted
            else:
                self.divergent = difference
        return Verdict([0], token)


def ulp(value: float, dtype: torch.dtype) -> float:
    """The spacing of a dtype's numbers at the magnitude of `value`."""
    exponent = math.frexp(value)[1] - 1 if value else 0
    return float(torch.finfo(dtype).eps) * 2.0**exponent
