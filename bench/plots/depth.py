"""Acceptance by depth."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..results import Results
from ..store import Row
from ..theme import Theme

ORDER = 7
TITLE = "Acceptance by depth"
CAPTION = (
    "The share of steps that accepted a drafted token at a depth, among the steps whose tree reached "
    "it. It falls with depth. All requests of an arm together; depths that fewer than 20 steps "
    "reached are left out."
)
FEWEST = 20  # steps behind a point
MOST = 8  # arms


def draw(results: Results, theme: Theme) -> Figure | None:
    """None unless an arm of ours drafted."""
    lines = [(arm, shares(results.rows(arm))) for arm in results.list_ours()]
    lines = [(arm, line) for arm, line in lines if line][:MOST]
    if not lines:
        return None
    figure, (axes,) = theme.figure(3.8)
    for arm, line in lines:
        axes.plot(
            range(1, len(line) + 1), line, marker="o", markersize=4, color=theme.arm(results, arm),
            label=results.label(arm, 34),
        )  # fmt: skip
    axes.set_xticks(range(1, max(len(line) for _, line in lines) + 1))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("depth below the root")
    axes.set_ylabel("share accepted")
    theme.add_legend(figure, axes, 3)
    return figure


def shares(rows: list[Row]) -> list[float]:
    """Accepted over reached for depth 1, 2, …, over all rows."""
    known = [row for row in rows if row["reached_by_depth"]]
    deepest = max((len(row["reached_by_depth"]) for row in known), default=0)
    found = []
    for depth in range(deepest):
        deep = [row for row in known if len(row["reached_by_depth"]) > depth]
        reached = sum(row["reached_by_depth"][depth] for row in deep)
        if reached < FEWEST:
            break
        found.append(sum(row["accepted_by_depth"][depth] for row in deep) / reached)
    return found
