"""Sensitivity to the options of `adaptive`."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results
from ..statistics import whiskers

ORDER = 6
TITLE = "Sensitivity of adaptive"
CAPTION = (
    "Arms with the shaper adaptive that differ in options: speed against AR with its 95 % interval, "
    "one panel per group of options that vary together. Where intervals overlap widely, these "
    "prompts show no effect of the choice."
)
GROUPS = (
    ("high", "low"),
    ("b_min", "b_mid", "b_max"),
    ("depth", "max_depth"),
    ("stop", "deep", "prune"),
)


def draw(results: Results, theme: Theme) -> Figure | None:
    """A panel per group of options, with arms that differ in that group only; None without two."""
    setting = results.longest_settings[0]
    arms = [a for a in results.list_ours() if results.options(a)["shaper"]["name"] == "adaptive"]
    panels = [(group, _group_varied(results, arms, group)) for group in GROUPS]
    panels = [(group, found) for group, found in panels if len(found) > 1]
    if not panels:
        return None
    tallest = max(len(found) for _, found in panels)
    rows = -(-len(panels) // 2)
    figure, axes_of = theme.figure(
        0.8 + rows * (0.6 + 0.26 * tallest), rows=rows, columns=min(2, len(panels))
    )
    for axes, (group, found) in zip(axes_of, panels, strict=False):
        points = [(label, results.ratio(arm, setting)) for label, arm in found]
        ratios = [ratio for _, ratio in points if ratio]
        places = list(range(len(ratios)))
        axes.errorbar(
            [r.mean for r in ratios], places, xerr=whiskers(ratios), fmt="o", markersize=5,
            color=theme.colour(0), ecolor=theme.soft, capsize=2,
        )  # fmt: skip
        axes.set_yticks(places, [label for label, ratio in points if ratio])
        axes.set_ylim(-0.6, len(ratios) - 0.4)
        axes.invert_yaxis()
        theme.add_title(axes, " / ".join(group))
        axes.set_xlabel(f"× AR, {setting.label}")
        theme.add_reference(axes, vertical=True)
    for axes in axes_of[len(panels) :]:
        axes.set_visible(False)
    return figure


def _group_varied(
    results: Results, arms: list[str], group: tuple[str, ...]
) -> list[tuple[str, str]]:
    """The largest set of arms that differ in this group's options only, as (values, arm)."""
    sets: dict[str, list[tuple[Any, str]]] = {}
    for arm in arms:
        shaper = results.options(arm)["shaper"]
        rest = str({k: v for k, v in shaper.items() if k not in group})
        values = tuple(shaper[name] for name in group)
        sets.setdefault(rest, []).append((values, arm))
    largest = dict(max((s[::-1] for s in sets.values()), key=lambda s: len(dict(s)), default=[]))
    return [(" / ".join(f"{v:g}" for v in values), arm) for values, arm in sorted(largest.items())]
