"""What recorded outcomes say of stopping: costs, losses, and where a rule stops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolkit import Outcomes, StopPolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def losses(outcomes: Outcomes, trade_off: float) -> Floats:
    """The loss [n, L] of stopping at each stage: the cost of all stages so far and λ times the lost
    quality."""
    return np.asarray(outcomes.costs.cumsum(1) + trade_off * (1 - outcomes.qualities))


def at(values: Floats, stops: Ints) -> Floats:
    """The values [n] of `values[n, L]` at the stages `stops[n]`."""
    return np.asarray(values[np.arange(len(stops)), stops])


def mean_loss(outcomes: Outcomes, stops: Ints, trade_off: float) -> float:
    """The mean loss of stopping at `stops[n]`."""
    return float(at(losses(outcomes, trade_off), stops).mean())


def stops_at(scores: Floats, thresholds: Sequence[float]) -> Ints:
    """The stage [n] at which the score of `scores[n, L]` first reaches that stage's threshold; the last
    stage, which has none, always stops."""
    reached = scores[:, :-1] >= np.asarray(thresholds)
    always = np.ones((len(scores), 1), dtype=bool)
    return np.asarray(np.concatenate([reached, always], 1).argmax(1))


def stops_of(policy: StopPolicy, scores: Floats, draws: Floats) -> Ints:
    """The stage [n] at which a policy stops each prompt of `scores[n, L]`. It is shown the scores of a
    stage only after it has run the stage."""
    rows = zip(scores.tolist(), draws.tolist(), strict=True)
    return np.array(
        [len(policy.run(len(row), row.__getitem__, draw)) - 1 for row, draw in rows], dtype=np.int64
    )


def oracle_stops(outcomes: Outcomes, trade_off: float) -> Ints:
    """The stage [n] of least loss for each prompt, chosen with knowledge of all qualities and costs."""
    return np.asarray(losses(outcomes, trade_off).argmin(1))


def cheapest_oracle_stops(outcomes: Outcomes, quality: float) -> Ints:
    """The stage [n] of each prompt, chosen with knowledge of all qualities and costs, so that the mean
    quality reaches `quality` at the least mean cost, up to what one prompt costs."""
    low, high = 0.0, 1e9 * float(outcomes.costs.sum(1).mean())
    for _ in range(100):  # halvings: to neighbouring numbers
        middle = (low + high) / 2
        enough = at(outcomes.qualities, oracle_stops(outcomes, middle)).mean() >= quality
        low, high = (low, middle) if enough else (middle, high)
    stops, better = oracle_stops(outcomes, low), oracle_stops(outcomes, high)  # equal losses at this λ
    before = at(outcomes.qualities, stops)
    gained = (at(outcomes.qualities, better) - before).cumsum()
    missing = len(stops) * (quality - 1e-12) - before.sum()
    going = int(gained.searchsorted(missing)) + 1 if missing > 0 else 0
    return np.concatenate([better[:going], stops[going:]])


def find_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The upper hull of (cost, quality), from the cheapest point to the best one."""
    best = max(quality for _, quality in points)
    end = min(cost for cost, quality in points if quality == best)
    hull: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda each: (each[0], -each[1])):
        if point[0] > end:
            break
        while len(hull) > 1 and _is_below(hull[-1], hull[-2], point):
            hull.pop()
        if not hull or point[0] > hull[-1][0]:
            hull.append(point)
    return hull


def _is_below(
    point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]
) -> bool:
    """Whether a point is on or below the line between two others."""
    rise, run = right[1] - left[1], right[0] - left[0]
    return (point[1] - left[1]) * run <= rise * (point[0] - left[0])
