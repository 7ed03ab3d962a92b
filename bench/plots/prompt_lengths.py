"""Speed and τ over the prompt's length."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..results import Results, set_name, short
from ..theme import Theme, whiskers

ORDER = 3
TITLE = "Over the prompt's length"
CAPTION = (
    "The same prompts cut to several lengths, at the longest T: speed against AR with its 95 % "
    "interval, and τ."
)


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set; nothing unless prompts were cut to two lengths."""
    dataset = results.settings[0][0]
    count = max(s[2] for s in results.settings if s[0] == dataset)
    settings = sorted(s for s in results.settings if s[0] == dataset and s[2] == count)
    if len(settings) < 2:
        return None
    figure, (left, right) = theme.figure(3.6, columns=2)
    limits = [setting[1] for setting in settings]
    for arm in results.by_arm:
        rows = [results.figures(arm, setting) for setting in settings]
        ratios, colour = [row["ratio"] for row in rows], theme.arm(results, arm)
        if rows[0]["is_baseline"] or None in ratios:
            continue
        means = [ratio.mean for ratio in ratios]
        left.errorbar(
            limits, means, yerr=whiskers(ratios), marker="o", markersize=4, color=colour, capsize=2,
            label=short(arm, 30),
        )  # fmt: skip
        taus = [row["tau"] if row["tau"] is not None else float("nan") for row in rows]
        right.plot(limits, taus, marker="o", markersize=4, color=colour)
    for axes, name in ((left, f"× AR, {set_name(settings[0])}, T = {count}"), (right, "τ")):
        theme.title(axes, name)
        axes.set_xticks(limits)
        axes.set_xlabel("tokens of the prompt")
    right.set_ylim(0, 1.08 * right.get_ylim()[1])
    theme.reference(left, vertical=False)
    theme.legend(figure, left)
    return figure
