"""Fixed trees: speed over depth, branches and threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results
from ..statistics import Ratio

ORDER = 5
TITLE = "Sweep of fixed trees"
CAPTION = (
    "Speed against AR (geometric mean of paired ratios) of every fixed tree, by depth, branches and "
    "threshold. A dot marks cells that cannot be called faster or slower than AR. "
    "The best cell of many is partly luck: measure it again before you quote it."
)


def draw(results: Results, theme: Theme) -> Figure | None:
    """One panel per threshold; None unless both depth and branches vary."""
    setting = results.longest_settings[0]
    cells: dict[float, dict[tuple[int, int], tuple[Ratio, bool]]] = {}
    for arm in results.list_ours():
        shaper = results.options(arm)["shaper"]
        ratio = results.ratio(arm, setting)
        if shaper["name"] == "fixed" and ratio:
            where = (shaper["depth"], shaper["branch"])
            sure = results.read_ratio(arm, ratio) in ("faster", "slower")
            cells.setdefault(shaper["threshold"], {})[where] = ratio, sure
    places = [where for panel in cells.values() for where in panel]
    depths, branches = (sorted({where[i] for where in places}) for i in (0, 1))
    if len(depths) < 2 or len(branches) < 2:
        return None
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    figure, panels = theme.figure(
        0.8 + rows * (0.7 + 0.34 * len(depths)), rows=rows, columns=columns
    )
    means = [ratio.mean for panel in cells.values() for ratio, _ in panel.values()]
    low, high = min(means), max(means)
    for axes, (threshold, panel) in zip(panels, sorted(cells.items()), strict=False):
        grid = np.full((len(depths), len(branches)), np.nan)
        for (depth, branch), (ratio, _) in panel.items():
            grid[depths.index(depth), branches.index(branch)] = ratio.mean
        image: Any = axes.imshow(grid, cmap=theme.heat, vmin=low, vmax=high, aspect="auto")
        for (depth, branch), (ratio, sure) in panel.items():
            place = (branches.index(branch), depths.index(depth))
            red, green, blue, _ = image.cmap(image.norm(ratio.mean))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            axes.text(
                *place, f"{ratio.mean:.2f}{'' if sure else ' ·'}", ha="center", va="center",
                fontsize=9, color="#ffffff" if dark else "#101418",
            )  # fmt: skip
        theme.add_title(axes, f"threshold {threshold:g}")
        axes.set_xticks(range(len(branches)), [str(b) for b in branches])
        axes.set_yticks(range(len(depths)), [str(d) for d in depths])
        axes.set_xlabel("branches")
        axes.set_ylabel("depth")
        axes.grid(visible=False)
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    return figure
