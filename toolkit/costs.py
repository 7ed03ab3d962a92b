"""Costs: what a pass and a drafted level take on this machine, as data that a shaper can plan with."""

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
    growing the tree by what it gave. Between what was measured, and beyond, straight lines. `noise` is
    how much longer than their least times things took, or than larger ones: 1 on an idle machine.
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
                    f"costs need a time for each of two sizes or more, and passes take some: {self}"
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
        short, long = (_line(wanted, sizes, curve) for curve in times)
        share = max(0.0, (length - self.contexts[0]) / (self.contexts[1] - self.contexts[0]))
        rise = long - short if share <= 1 else np.maximum(long - short, 0.0)
        base = short if share <= 1 else long - rise
        return np.asarray(base + share * rise)


def _line(at: NDArray[np.float64], sizes: tuple[int, ...], times: Row) -> NDArray[np.float64]:
    """Straight lines between what was measured, the last one going on unless it falls."""
    inside: NDArray[np.float64] = np.interp(at, sizes, times)
    slope = max(0.0, (times[-1] - times[-2]) / (sizes[-1] - sizes[-2]))
    return inside + slope * np.maximum(at - sizes[-1], 0.0)
