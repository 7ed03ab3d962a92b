"""Compares a generation with AR; the verdict is part of every result."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from toolkit.errors import MismatchError
from toolkit.generation import Difference, Generation, Outcome, Verification
from toolkit.interfaces import Verifier
from toolkit.runtime.numerics import rounding_of
from toolkit.sampling import Sampler
from toolkit.tree import TokenTree, Verdict

if TYPE_CHECKING:
    from toolkit.logits_processing import LogitsProcessor
    from toolkit.pipeline import Pipeline

ULPS = 2  # a margin of so many units in the last place is a numerical tie


def verify(
    pipeline: Pipeline, generation: Generation, processor: LogitsProcessor | None = None
) -> Verification:
    """Compare a generation with AR of the same target, KV policy, sampling and seed, token by token.

    `processor` is the one that `stream` was given.

    A generation that drafted nothing is AR itself: its verdict is `inconclusive`. Otherwise see
    `compare_with_ar`. Raises `MismatchError` when the pipeline does not promise AR's tokens.
    """
    require_comparable(pipeline)
    found = compare_with_ar(
        pipeline,
        generation.prompt_ids,
        generation.token_ids,
        stop=generation.stop,
        seed=generation.seed,
        processor=processor,
    )
    drafted = any(step.nodes > 1 for step in generation.steps)
    if not drafted and found.verdict != "divergent":
        return attrs.evolve(found, verdict="inconclusive")
    speed = _time_graphs_of_ar(pipeline, generation) if processor is None else None
    return attrs.evolve(found, ar_tokens_per_s=speed or found.ar_tokens_per_s)


def _time_graphs_of_ar(pipeline: Pipeline, generation: Generation) -> float | None:
    """AR's tokens/s where its steps may run as one graph each, which those that are compared do not;
    None elsewhere. The first of two requests captures the graph."""
    from toolkit.runtime.static_step import reason_not_whole

    if not pipeline.sampling.greedy or reason_not_whole(pipeline.pool.load(pipeline.target)):
        return None
    ar, count = pipeline.autoregressive, len(generation.token_ids)
    made = [ar.generate(generation.prompt_ids, max_new_tokens=count) for _ in range(2)]
    return made[-1].tokens_per_s


def require_comparable(pipeline: Pipeline) -> None:
    """Raise `MismatchError` when the pipeline does not promise AR's tokens.

    At temperature 0 AR's distribution is one token, so a verifier that keeps it gives AR's tokens.
    """
    verifier = pipeline.verifier.cls
    if verifier.exactness == "distribution" and not pipeline.sampling.greedy:
        raise MismatchError(
            f"cannot compare with AR token by token: verifier {verifier.name!r} keeps AR's "
            f"distribution, not its tokens, at temperatures above 0; use `--verifier sampler-match`, "
            f"or do not compare"
        )


def compare_with_ar(
    pipeline: Pipeline,
    prompt_ids: list[int],
    token_ids: list[int],
    *,
    stop: Iterable[str] = (),
    seed: int = 0,
    processor: LogitsProcessor | None = None,
) -> Verification:
    """Run AR of the pipeline's target and KV policy and compare it with `token_ids`, token by token.

    At a difference AR's own logits decide. If a change of two units in the last place of the target's
    dtype would give our token, it is a numerical tie, and AR continues with our token. Otherwise the
    verdict is `divergent`.
    """
    stream = pipeline.autoregressive.stream(
        prompt_ids, max_new_tokens=len(token_ids), stop=stop, seed=seed, processor=processor
    )
    watch = Watch(token_ids, rounding_of(stream.target.model))
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
    """AR's verifier, which compares each token with the expected one."""

    name = "watch"
    exactness = "token"
    assumes = frozenset({"fixed", "sampled"})

    expected: list[int]
    dtype: torch.dtype  # that rounds as the target does; its logits may be wider
    compared: int = 0  # tokens so far
    ties: list[Difference] = attrs.field(factory=list)
    divergent: Difference | None = None

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        index, wanted = self.compared, self.expected[self.compared]
        token = sampler.token(logits[0], 0)
        self.compared += 1
        if token != wanted:
            allowed = ULPS * ulp(float(logits[0, token]), self.dtype)
            margin = _margin(sampler, logits[0], token, wanted)
            difference = Difference(index, wanted, token, margin, allowed)
            if margin <= allowed or _is_tie(sampler, logits[0], token, wanted, allowed):
                self.ties.append(difference)
                token = wanted
            else:
                self.divergent = difference
        return Verdict([0], token)


def _margin(sampler: Sampler, row: Tensor, token: int, wanted: int) -> float:
    """The change of logits at which `wanted` would be chosen instead of `token`."""
    perturbed = sampler.perturbed(row, 0)
    return float(perturbed[token] - perturbed[wanted])


def _is_tie(sampler: Sampler, row: Tensor, token: int, wanted: int, allowed: float) -> bool:
    """Whether `wanted` is drawn once the two logits are closer by `allowed`.

    The margin does not show this where top-k or top-p keeps one of the two tokens and cuts the other.
    """
    closer = row.double()
    closer[token] -= allowed / 2
    closer[wanted] += allowed / 2
    return sampler.token(closer, 0) == wanted


def ulp(value: float, dtype: torch.dtype) -> float:
    """The spacing of a dtype's numbers at the magnitude of `value`."""
    exponent = math.frexp(value)[1] - 1 if value else 0
    return float(torch.finfo(dtype).eps) * 2.0**exponent
