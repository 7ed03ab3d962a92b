"""Speed against AR, prompt by prompt."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results

ORDER = 1.5
TITLE = "Prompt by prompt"
CAPTION = (
    "Decoding speed divided by that of AR on each prompt: a dot per prompt (its mean over rounds) and "
    "a line at the arm's mean. A wide row means that the speed-up depends on the prompt."
)
MOST = 16  # arms


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set at its longest; None without an arm beside AR."""
    setting = results.longest_settings[0]
    found = []
    for arm, run in results.by_arm.items():
        ratio, ratios = results.ratio(arm, setting), results.prompt_ratios(arm, setting)
        if run["baseline"] != arm and ratio:
            found.append((ratio.mean, arm, sorted(ratios.values())))
    found = sorted(found, reverse=True)[:MOST]
    if not found:
        return None
    figure, (axes,) = theme.figure(1.1 + 0.42 * len(found))
    for place, (centre, arm, points) in enumerate(found):
        spread = 0.22 * np.sin(np.arange(len(points)) * 2.4)  # equal prompts do not hide each other
        colour = results.colour(arm, theme)
        axes.plot(points, place + spread, "o", markersize=4, color=colour, alpha=0.75)
        axes.plot([centre, centre], [place - 0.34, place + 0.34], color=theme.ink, linewidth=1.6)
    axes.set_yticks(range(len(found)), [results.label(arm) for _, arm, _ in found])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel("× AR")
    theme.add_reference(axes, vertical=True)
    theme.add_title(axes, setting.label)
    return figure
