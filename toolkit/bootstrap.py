"""Bootstrap intervals of means and shares, over prompts.

Plain percentiles are too narrow for few prompts; they are widened as in the expanded percentile
interval of Hesterberg 2015, arXiv:1411.5279.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95
FEWEST = 5  # prompts: with fewer, a bootstrap says nothing
BLOCK = 1 << 22  # draws held in memory at a time


def bootstrap(values: Floats, seed: int = 0) -> tuple[float | None, float | None]:
    """The interval of the mean of `values[n, R]`, of n prompts in R rounds; None for fewer than FEWEST
    prompts. Prompts and rounds are resampled (Owen 2007, The pigeonhole bootstrap, arXiv:0712.1111)."""
    count, rounds = values.shape
    if count < FEWEST:
        return None, None
    rng = np.random.default_rng(seed)
    by_round = _resample_means(values, rng)
    picks = rng.integers(0, rounds, size=(RESAMPLES, rounds))
    low, high = _take_interval(np.take_along_axis(by_round, picks, axis=1).mean(axis=1), count)
    return float(low), float(high)


def bootstrap_columns(values: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    """The ends [K] of the interval of each column's mean of `values[n, K]`, over n prompts."""
    return _take_interval(_resample_means(values, np.random.default_rng(seed)), len(values))


def bootstrap_share(parts: Floats, wholes: Floats, seed: int = 0) -> tuple[float, float]:
    """The interval of Σ parts[n] / Σ wholes[n] over n prompts; the share itself for fewer than `FEWEST`
    prompts."""
    count = len(parts)
    if count < FEWEST:
        share = float(parts.sum() / wholes.sum())
        return share, share
    part, whole = _resample_means(np.stack([parts, wholes], 1), np.random.default_rng(seed)).T
    shares = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    low, high = _take_interval(shares, count)
    return float(low), float(high)


def _resample_means(values: Floats, rng: np.random.Generator) -> Floats:
    """The means [RESAMPLES, K] of `values[n, K]` over n rows that are drawn with replacement."""
    count = len(values)
    size = max(1, BLOCK // count)
    means = []
    for start in range(0, RESAMPLES, size):
        picks = rng.integers(0, count, size=(min(size, RESAMPLES - start), count))
        cells = (picks + count * np.arange(len(picks))[:, None]).ravel()
        drawn = np.bincount(cells, minlength=picks.size).reshape(picks.shape)
        means.append(drawn.astype(np.float64) @ values / count)
    return np.concatenate(means)


def _take_interval(means: Floats, count: int) -> tuple[Floats, Floats]:
    """The ends of the interval of resampled means [RESAMPLES, …] of `count` prompts."""
    tail = widen_tail(count)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def widen_tail(count: int) -> float:
    """The tail of the bootstrap to cut instead of 2.5 %: Φ(−t √(n / (n − 1))), t from Student's law.

    t by the expansion of Cornish and Fisher; its error is below 0.3 % from five values on.
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
