"""Cost against quality."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..outcomes import find_hull
from ..study import Point, Study

TITLE = "Cost and quality"
CAPTION = (
    "Each point is a policy fitted for one λ on the other half of the prompts, with the 95 % bootstrap "
    "intervals of mean cost and quality over prompts. Crosses: each stage alone. Dashed: the first or "
    "the last stage alone, by chance; a policy below it is worth nothing. Dotted: the hull of all "
    "policies, chosen on the points it shows. The oracle knows all grades."
)


def draw(study: Study, theme: Theme) -> Figure:
    """All policies over λ."""
    figure, (axes,) = theme.figure(5.2)
    for number, (name, points) in enumerate({**study.curves, "oracle": study.oracle}.items()):
        _draw_curve(axes, points, name, theme.colour(number))
    ends = [(each.cost.mean, each.quality.mean) for each in study.alone]
    axes.plot(*zip(*ends, strict=True), "x", color=theme.ink, label="stages alone", zorder=4)
    axes.plot(
        *zip(ends[0], ends[-1], strict=True),
        color=theme.soft,
        linestyle=(0, (4, 3)),
        label="chance",
    )
    every = [(p.held.cost.mean, p.held.quality.mean) for c in study.curves.values() for p in c]
    axes.plot(
        *zip(*find_hull(every), strict=True),
        color=theme.soft,
        linestyle=":",
        linewidth=1,
        label="hull",
    )
    axes.set(xlabel=f"mean cost of a prompt, {study.cost}", ylabel="mean quality")
    theme.add_legend(figure, axes, 4)
    return figure


def _draw_curve(axes: object, points: list[Point], name: str, colour: str) -> None:
    held = sorted((point.held for point in points), key=lambda each: each.cost.mean)
    costs, qualities = [h.cost for h in held], [h.quality for h in held]
    spans = [
        [[i.mean - i.low for i in part], [i.high - i.mean for i in part]]
        for part in (costs, qualities)
    ]
    axes.errorbar(  # type: ignore[attr-defined]
        [i.mean for i in costs], [i.mean for i in qualities], xerr=spans[0], yerr=spans[1],
        color=colour, label=name, marker="o", markersize=3, linewidth=1, elinewidth=0.4,
    )  # fmt: skip
