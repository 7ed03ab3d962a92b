"""Costs: measured times of passes and drafted levels, for shapers that plan."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

Row = tuple[float, ...]


@frozen
class Costs:
    """Measured times in milliseconds, at two cached lengths.

    `target[i][j]` is a pass of `rows[j]` nodes at length `contexts[i]`: the target's forward, a greedy
    verdict and both commits. `draft[i][j]` is one level: `expand` of `widths[j]` frontier nodes, and
    growing the tree by the candidates. Times of other sizes and lengths are interpolated and
    extrapolated linearly. `noise` is the largest ratio of a time to the least time of the same or a
    larger size: 1 on an idle machine.
    """

    contexts: tuple[int, int]
    rows: tuple[int, ...]
    target: tuple[Row, Row]
    widths: tuple[int, ...]
    draft: tuple[Row, Row]
    noise: float = 1.0

    def __attrs_post_init__(self) -> None:
        for sizes, curves, least in (self.rows, self.target, 1e-9), (self.widths, self.draft, 0.0):
            if len(sizes) < 2 or any(len(row) != len(sizes) or min(row) < least for row in curves):
                raise ValueError(
                    f"expected one time for each of at least two sizes, above 0 for passes; got {self}"
                )

    def passes(self, length: int, most: int) -> NDArray[np.float64]:
        """Times [most] of a pass of 1, 2, … nodes at cached length `length`."""
        return self._at(length, self.rows, self.target, most)

    def levels(self, length: int, most: int) -> NDArray[np.float64]:
        """Times [most] of a level from 1, 2, … frontier nodes at cached length `length`."""
        return self._at(length, self.widths, self.draft, most)

    def _at(
        self, length: int, sizes: tuple[int, ...], times: tuple[Row, Row], most: int
    ) -> NDArray[np.float64]:
        wanted = np.arange(1.0, most + 1)
        short, long = (_interpolate(wanted, sizes, curve) for curve in times)
        share = max(0.0, (length - self.contexts[0]) / (self.contexts[1] - self.contexts[0]))
        rise = long - short if share <= 1 else np.maximum(long - short, 0.0)
        base = short if share <= 1 else long - rise
        return np.asarray(base + share * rise)


def _interpolate(
    at: NDArray[np.float64], sizes: tuple[int, ...], times: Row
) -> NDArray[np.float64]:
    """Interpolate linearly; beyond the last size, continue the last segment unless it falls."""
    inside: NDArray[np.float64] = np.interp(at, sizes, times)
    slope = max(0.0, (times[-1] - times[-2]) / (sizes[-1] - sizes[-2]))
    return inside + slope * np.maximum(at - sizes[-1], 0.0)
