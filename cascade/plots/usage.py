"""Which stage answers, over λ."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..study import Study

TITLE = "Stages over λ"
CAPTION = (
    "The share of prompts that each stage answers under the policy dp, by λ: the cost that one unit of "
    "quality is worth, in mean costs of the large model."
)


def draw(study: Study, theme: Theme) -> Figure:
    """Stacked shares of the policy dp."""
    figure, (axes,) = theme.figure(3.8)
    points = [point for point in study.curves["dp"] if point.trade_off > 0]
    unit = float(study.fitting.costs[:, -1].mean())
    shares = list(zip(*(point.held.usage for point in points), strict=True))
    axes.stackplot(
        [point.trade_off / unit for point in points], *shares, labels=study.stages,
        colors=[theme.colour(stage) for stage in range(len(shares))], alpha=0.85,
    )  # fmt: skip
    axes.set(xlabel="λ, in mean costs of the large model", ylabel="share of prompts", xscale="log")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter("{x:g}")
    theme.add_legend(figure, axes, 1)
    return figure
