"""Speed and τ over the output's length: four panels."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..results import Results
from ..style import Theme, short

ORDER = 2
TITLE = "Over the output's length"
CAPTION = (
    "How speed, speed against AR (band: 95 % interval), τ and the share of different 3-grams change "
    "with T. Greedy output of small models begins to repeat itself, and what repeats is easily "
    "drafted: read the growth of τ beside the last panel."
)
MOST = 8  # arms


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set at its longest prompts; nothing unless there are two lengths."""
    dataset = results.settings[0][0]
    limit = max(s[1] for s in results.settings if s[0] == dataset)
    settings = sorted(
        (s for s in results.settings if s[:2] == (dataset, limit)), key=lambda s: s[2]
    )
    if len(settings) < 2:
        return None
    figure, panels = theme.figure(6.2, rows=2, columns=2)
    lengths = [setting[2] for setting in settings]
    for arm in list(results.by_arm)[:MOST]:
        colour = theme.arm(results, arm)
        rows = [results.figures(arm, setting) for setting in settings]
        for axes, key in (
            (panels[0], "tokens_per_s"),
            (panels[2], "tau"),
            (panels[3], "distinct_3grams"),
        ):
            values = [row[key] if row[key] is not None else float("nan") for row in rows]
            axes.plot(lengths, values, marker="o", markersize=4, color=colour, label=short(arm, 30))
        ratios = [row["ratio"] for row in rows]
        if rows[0]["is_baseline"] or None in ratios:
            continue
        panels[1].plot(lengths, [r.mean for r in ratios], marker="o", markersize=4, color=colour)
        if all(r.low is not None for r in ratios):
            low, high = [r.low for r in ratios], [r.high for r in ratios]
            panels[1].fill_between(lengths, low, high, color=colour, alpha=0.15, linewidth=0)
    names = ("tokens/s", "× AR", "τ, tokens per target forward", "different 3-grams in the output")
    for axes, name in zip(panels, names, strict=True):
        theme.title(axes, name)
        axes.set_xticks(lengths)
        axes.set_xlabel("T, tokens decoded")
    for axes in (panels[0], panels[2]):
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    panels[3].set_ylim(0, 1.05)
    theme.reference(panels[1], vertical=False)
    theme.legend(figure, panels[0])
    return figure
