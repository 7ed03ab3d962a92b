"""Speed and τ over the prompt's length."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results
from ..statistics import whiskers

ORDER = 3
TITLE = "Over the prompt's length"
CAPTION = (
    "The same prompts cut to several lengths, at the longest T: speed against AR with its 95 % "
    "interval, and τ."
)


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set; None unless prompts were cut to two lengths."""
    settings = results.settings_by_prompt
    if len(settings) < 2:
        return None
    figure, (left, right) = theme.figure(3.6, columns=2)
    limits = [setting.prompt_limit for setting in settings]
    for arm in results.by_arm:
        rows = [results.summarize(arm, setting) for setting in settings]
        ratios = [row.ratio for row in rows if row.ratio is not None]
        colour = results.colour(arm, theme)
        if rows[0].is_baseline or len(ratios) < len(rows):
            continue
        means = [ratio.mean for ratio in ratios]
        left.errorbar(
            limits, means, yerr=whiskers(ratios), marker="o", markersize=4, color=colour, capsize=2,
            label=results.label(arm, 30),
        )  # fmt: skip
        taus = [row.tau if row.tau is not None else float("nan") for row in rows]
        right.plot(limits, taus, marker="o", markersize=4, color=colour)
    for axes, name in ((left, f"× AR, {settings[0].label}"), (right, "τ")):
        theme.add_title(axes, name)
        axes.set_xticks(limits)
        axes.set_xlabel("tokens of the prompt")
    right.set_ylim(0, 1.08 * right.get_ylim()[1])
    theme.add_reference(left, vertical=False)
    theme.add_legend(figure, left)
    return figure
