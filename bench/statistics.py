"""Paired statistics: ratios per prompt, geometric means, bootstrap intervals over prompts.

A ratio is taken between two requests with the same prompt and setting, one after the other on the
same machine. Its logarithms are averaged within a prompt (over turns), then over prompts; the
prompt is what is resampled, because the requests of one prompt are not independent. Plain
percentiles are too narrow for few prompts; they are widened after Hesterberg 2015, arXiv:1411.5279
(the expanded percentile interval).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from attrs import frozen

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST = 5  # prompts below which no interval is given: a bootstrap of so few is a guess


@frozen
class Ratio:
    """A geometric mean of paired ratios, and where 95 % of its bootstrap lies."""

    mean: float
    low: float | None  # None: too few prompts for an interval
    high: float | None
    prompts: int

    @property
    def reading(self) -> str:
        """What may be said: faster, slower, or that the interval includes 1."""
        if self.low is None or self.high is None:
            return "too few prompts"
        if self.low <= 1 <= self.high:
            return "includes 1"
        return "faster" if self.low > 1 else "slower"

    @property
    def text(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def paired(ours: Mapping[Any, float], theirs: Mapping[Any, float], seed: int = 0) -> Ratio | None:
    """The ratio of two measurements by (prompt, …) keys; only keys that both have count.

    The first part of a key is the prompt. None when the two share no key.
    """
    logs: dict[Any, list[float]] = defaultdict(list)
    for key in ours.keys() & theirs.keys():
        logs[key[0]].append(math.log(ours[key] / theirs[key]))
    if not logs:
        return None
    means = np.array([float(np.mean(sorted(values))) for _, values in sorted(logs.items())])
    low, high = interval(means, seed)
    centre = float(np.exp(means.mean()))
    if low is None or high is None:
        return Ratio(centre, None, None, len(means))
    return Ratio(centre, math.exp(low), math.exp(high), len(means))


def interval(values: np.ndarray, seed: int = 0) -> tuple[float | None, float | None]:
    """Bootstrap interval of a mean (expanded percentiles), or nothing for too few values."""
    if len(values) < FEWEST:
        return None, None
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values), size=(RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    tail = expanded_tail(len(values))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(count: int) -> float:
    """The bootstrap's tail that stands for one of 2.5 %: Φ(−t √(n / (n − 1))), with Student's t.

    t is Cornish and Fisher's expansion, right to 0.3 % from five values on.
    """
    normal, v = NormalDist(), count - 1
    z = normal.inv_cdf((1 + LEVEL) / 2)
    t = (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
    return normal.cdf(-t * math.sqrt(count / v))


def geometric_mean(values: Iterable[float]) -> float | None:
    """Of positive values; None of none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that were measured; None when none was."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
