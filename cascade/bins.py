"""Recorded scores as a Markov chain: bins of each stage's score, and how likely each leads to which."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes

Floats = NDArray[np.float64]


@frozen(eq=False)
class Bins:
    """A chain over the bins of L stages.

    `edges[k]` separate the bins of stage k; `qualities[k][B]` is the mean quality of each;
    `steps[k][B, B']` is the probability of each bin of stage k + 1 after one of stage k, and
    `costs[k][B]` the mean cost of running stage k + 1 after it.
    """

    edges: list[Floats]
    qualities: list[Floats]
    steps: list[Floats]
    costs: list[Floats]

    def go_on(self, stage: int, value: Floats) -> Floats:
        """The expected cost [B] of running the next stage, whose bins are worth `value[B']`."""
        return np.asarray(self.costs[stage] + self.steps[stage] @ value)


def bin_scores(outcomes: Outcomes, bins: int) -> Bins:
    """Estimate the chain from outcomes in which every stage ran. Bins hold about equally many prompts;
    one prompt's worth of the next stage's average is added to each row of the transitions (Laplace)."""
    edges = [_edges(column, bins) for column in outcomes.scores.T]
    cells = [
        np.searchsorted(edge, column, "right")
        for edge, column in zip(edges, outcomes.scores.T, strict=True)
    ]
    counts = [len(edge) + 1 for edge in edges]
    steps, costs = [], []
    for stage in range(outcomes.stages - 1):
        table = np.zeros((counts[stage], counts[stage + 1]))
        np.add.at(table, (cells[stage], cells[stage + 1]), 1.0)
        table += table.sum(0) / table.sum()
        steps.append(table / table.sum(1, keepdims=True))
        costs.append(_means(outcomes.costs[:, stage + 1], cells[stage], counts[stage]))
    qualities = [
        _means(outcomes.qualities[:, stage], cells[stage], counts[stage])
        for stage in range(outcomes.stages)
    ]
    return Bins(edges, qualities, steps, costs)


def _edges(scores: Floats, bins: int) -> Floats:
    """The values that separate quantile bins, without repeats."""
    return np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))


def mean_by_bin(scores: Floats, edges: Floats, values: Floats) -> Floats:
    """The mean [B] of `values[n]` in each bin of `scores[n]`."""
    return _means(values, np.searchsorted(edges, scores, "right"), len(edges) + 1)


def _means(values: Floats, cells: NDArray[np.int64], count: int) -> Floats:
    """The mean of the values in each bin; an empty bin has the mean of all."""
    sums, sizes = np.bincount(cells, values, count), np.bincount(cells, minlength=count)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), values.mean())
