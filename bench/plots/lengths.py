"""Speed and τ over the output's length: four panels."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results
from ..statistics import whiskers

ORDER = 2
TITLE = "Over the output's length"
CAPTION = (
    "Speed, speed against AR (with 95 % intervals), τ and the share of different 3-grams over T. The "
    "greedy output of small models starts to repeat itself, and repetitions are easy to draft: "
    "compare the growth of τ with the last panel."
)
MOST = 8  # arms


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set at its longest prompts; None unless there are two lengths."""
    first = results.longest_settings[0]
    settings = sorted(
        s for s in results.settings
        if (s.dataset, s.prompt_limit) == (first.dataset, first.prompt_limit)
    )  # fmt: skip
    if len(settings) < 2:
        return None
    figure, panels = theme.figure(6.2, rows=2, columns=2)
    lengths = [setting.max_new_tokens for setting in settings]
    for arm in list(results.by_arm)[:MOST]:
        colour = results.colour(arm, theme)
        rows = [results.summarize(arm, setting) for setting in settings]
        for axes, key in (
            (panels[0], "tokens_per_s"),
            (panels[2], "tau"),
            (panels[3], "distinct_3grams"),
        ):
            values = [getattr(row, key) for row in rows]
            values = [float("nan") if value is None else value for value in values]
            axes.plot(
                lengths,
                values,
                marker="o",
                markersize=4,
                color=colour,
                label=results.label(arm, 30),
            )
        ratios = [row.ratio for row in rows if row.ratio is not None]
        if rows[0].is_baseline or len(ratios) < len(rows):
            continue
        index = list(results.by_arm).index(arm)
        moved = [length * (1 + 0.015 * (index - 2)) for length in lengths]  # intervals side by side
        panels[1].errorbar(
            moved, [r.mean for r in ratios], yerr=whiskers(ratios), marker="o", markersize=4,
            color=colour, capsize=2, elinewidth=1,
        )  # fmt: skip
    names = ("tokens/s", "× AR", "τ, tokens per target forward", "different 3-grams in the output")
    for axes, name in zip(panels, names, strict=True):
        theme.add_title(axes, name)
        axes.set_xscale("log")
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.set_xlabel("T, tokens decoded")
    for axes in (panels[0], panels[2]):
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    panels[3].set_ylim(0, 1.05)
    theme.add_reference(panels[1], vertical=False)
    theme.add_legend(figure, panels[0])
    return figure
