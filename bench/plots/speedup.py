"""Speed against AR, arm by arm."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results
from ..statistics import whiskers

ORDER = 1
TITLE = "Speed against AR"
CAPTION = (
    "Decoding speed of each arm divided by that of AR with the same target and KV policy: geometric "
    "mean of paired ratios, and its 95 % bootstrap interval. Hollow bars cannot be called faster or "
    "slower: the interval includes 1, prompts are too few, outputs diverged, or the machine was "
    "unsteady."
)
MOST = 24  # arms in one panel


def draw(results: Results, theme: Theme) -> Figure | None:
    """One panel per data set, at its longest T and prompts."""
    arms = [arm for arm, run in results.by_arm.items() if run["baseline"] != arm]
    settings = results.longest_settings
    if not arms:
        return None
    rows = min(len(arms), MOST)
    figure, panels = theme.figure(0.9 + len(settings) * (0.7 + 0.3 * rows), rows=len(settings))
    for axes, setting in zip(panels, settings, strict=True):
        found = [(arm, ratio) for arm in arms if (ratio := results.ratio(arm, setting))]
        bars = sorted(found, key=lambda pair: -pair[1].mean)[:MOST]
        ratios = [ratio for _, ratio in bars]
        places = list(range(len(bars)))
        for place, (arm, ratio) in enumerate(bars):
            colour = results.colour(arm, theme)
            sure = results.read_ratio(arm, ratio) in ("faster", "slower")
            axes.barh(place, ratio.mean, 0.62, color=colour if sure else "none", edgecolor=colour)
        means = [ratio.mean for ratio in ratios]
        axes.errorbar(
            means, places, xerr=whiskers(ratios), fmt="none", ecolor=theme.ink, elinewidth=1.2
        )
        for place, ratio in enumerate(ratios):
            end = ratio.high if ratio.high is not None else ratio.mean
            axes.annotate(
                f"{ratio.mean:.2f}", (end, place), (5, 0), textcoords="offset points",
                va="center", fontsize=9, color=theme.ink,
            )  # fmt: skip
        axes.set_yticks(places, [results.label(arm) for arm, _ in bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.12 * max([1.0, *(ratio.high or ratio.mean for ratio in ratios)]))
        axes.set_xlabel("× AR")
        theme.add_reference(axes, vertical=True)
        more = f", the {MOST} fastest of {len(found)}" if len(found) > MOST else ""
        theme.add_title(axes, f"{setting.label}{more}")
    return figure
