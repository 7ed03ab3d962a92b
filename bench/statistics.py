"""Paired statistics: ratios per prompt, geometric means, bootstrap intervals over prompts and rounds.

A ratio compares two requests with the same key on the same machine. Logarithms of ratios are averaged
within a prompt and round, then over both. The bootstrap resamples prompts, because the requests of one
prompt are not independent, and rounds, because what the machine does meanwhile is common to a round's
requests.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from toolkit.bootstrap import bootstrap


@frozen
class Ratio:
    """A geometric mean of paired ratios, with its 95 % bootstrap interval."""

    mean: float
    low: float | None  # None: too few prompts for an interval
    high: float | None
    prompts: int

    @property
    def reading(self) -> str:
        """faster, slower, includes 1 (the interval does), or too few prompts."""
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


def compare_paired(
    ours: Mapping[Any, float], theirs: Mapping[Any, float], seed: int = 0
) -> Ratio | None:
    """The ratio of two sets of measurements by key, over the keys that both have.

    The first part of a key is the prompt, the second the round. None when they share no key.
    """
    logs: dict[tuple[Any, Any], list[float]] = defaultdict(list)
    for key in ours.keys() & theirs.keys():
        logs[key[:2]].append(math.log(ours[key] / theirs[key]))
    if not logs:
        return None
    prompts, rounds = (sorted({key[part] for key in logs}) for part in (0, 1))
    cells = np.array([[np.mean(sorted(logs[p, r] or [np.nan])) for r in rounds] for p in prompts])
    own = np.nanmean(cells, axis=1, keepdims=True)
    cells = np.where(np.isnan(cells), own, cells)  # a bench that was stopped in its last round
    low, high = bootstrap(cells, seed)
    centre = float(np.exp(cells.mean()))
    if low is None or high is None:
        return Ratio(centre, None, None, len(prompts))
    return Ratio(centre, math.exp(low), math.exp(high), len(prompts))


def ratios_by_prompt(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> dict[Any, float]:
    """The ratio of two sets of measurements for each prompt, the geometric mean of its pairs."""
    logs: dict[Any, list[float]] = defaultdict(list)
    for key in ours.keys() & theirs.keys():
        logs[key[0]].append(math.log(ours[key] / theirs[key]))
    return {prompt: math.exp(mean(sorted(values)) or 0.0) for prompt, values in logs.items()}


def divide(part: float | None, whole: float | None) -> float | None:
    """A ratio; None where a part of it is not known, or there is nothing to divide by."""
    return part / whole if part is not None and whole else None


def geometric_mean(values: Iterable[float]) -> float | None:
    """The geometric mean of positive values; None without values."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None without any."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None

def whiskers(ratios: Sequence[Ratio]) -> list[list[float]]:
    """Distances [2][n] from the means to the ends of their intervals; 0 without an interval."""
    low = [r.mean - r.low if r.low is not None else 0.0 for r in ratios]
    high = [r.high - r.mean if r.high is not None else 0.0 for r in ratios]
    return [low, high]
