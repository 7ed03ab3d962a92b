"""Do sampled tokens have the target's law? A test by where each token lies in its own law."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from math import exp
from typing import TYPE_CHECKING

from toolkit import Pipeline, teacher_force

if TYPE_CHECKING:
    from torch import Tensor

ERROR = 0.001  # how often at least one of a bench's right arms fails, at most
BINS = 5


def place_tokens(pipeline: Pipeline, prompt: list[int], tokens: list[int], seed: int) -> list[float]:
    """Where each of `tokens[T]` lies in the target's law after the tokens before it, from 0 to 1.

    The law is sorted by probability: a token's place is the probability of the likelier tokens, plus a
    random share of its own. If tokens have the target's law, their places are independent and uniform
    (Rosenblatt 1952), whatever the laws are. The target's logits are those of the pipeline's KV policy.
    """
    import torch  # not at the top: reading results needs no model

    forced = teacher_force(pipeline, [*prompt, *tokens], len(prompt))
    logits = _process(pipeline, prompt, tokens, forced.logits)
    laws = pipeline.sampling.scores(logits).double().softmax(-1)
    ids = torch.tensor(tokens, device=laws.device)[:, None]
    own = laws.gather(1, ids)
    equal = (laws == own) & (torch.arange(laws.shape[1], device=laws.device) < ids)
    before = (laws * ((laws > own) | equal)).sum(1)
    rng = random.Random(seed)  # noqa: S311 no secret
    pairs = zip(before.tolist(), own[:, 0].tolist(), strict=True)
    return [min(1.0, low + rng.random() * share) for low, share in pairs]


def _process(pipeline: Pipeline, prompt: list[int], tokens: list[int], logits: Tensor) -> Tensor:
    """`logits[T, V]` before each of `tokens[T]`, after the logits processors of the target's own."""
    processor = pipeline.defaults.processors(prompt, logits.device)
    if processor is None:
        return logits
    import torch

    ids, own = torch.tensor([[*prompt, *tokens]], device=logits.device), logits.float().clone()
    rows = [
        processor(ids[:, : len(prompt) + row], own[row : row + 1]) for row in range(len(tokens))
    ]
    return torch.cat(rows)


def compare_law(requests: Iterable[Sequence[float]]) -> float | None:
    """The p-value of the tokens' places of some requests; None for too few tokens.

    A chi-square test of each place against the one before it in its request, in 5 × 5 cells, and of
    first places alone: a wrong law shows, and so do random numbers that are used twice. What ends a
    request may depend on its tokens: given those before it, each place is uniform all the same.
    """
    counts = [[0] * BINS for _ in range(BINS + 1)]
    for places in requests:
        before = BINS
        for place in places:
            now = min(int(place * BINS), BINS - 1)
            counts[before][now] += 1
            before = now
    rows = [row for row in counts if sum(row) >= 5 * BINS]  # a wrong law may leave some empty
    if sum(map(sum, rows)) < 5 * BINS * BINS:
        return None
    distance = sum((n - sum(row) / BINS) ** 2 / (sum(row) / BINS) for row in rows for n in row)
    return chi_square_tail(distance, len(rows) * (BINS - 1))


def chi_square_tail(distance: float, freedom: int) -> float:
    """The probability that chi-square of an even number of degrees of freedom exceeds `distance`."""
    term, total = 1.0, 1.0
    for i in range(1, freedom // 2):
        term *= distance / 2 / i
        total += term
    return min(1.0, exp(-distance / 2) * total)
