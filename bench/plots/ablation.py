"""The effect of each part of `adaptive`."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results
from ..statistics import whiskers

ORDER = 4
TITLE = "Ablation of adaptive"
CAPTION = (
    "The shaper adaptive with its parts switched on one by one (breadth by confidence, depth by path "
    "probability, steering by history), and fixed trees where they were measured: speed against AR "
    "with its 95 % interval, and τ."
)
PARTS = ("breadth", "gating", "history")


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set at its longest; None unless some arm has a part switched off."""
    setting = results.longest_settings[0]
    found = []
    for arm in results.list_ours():
        shaper = results.options(arm)["shaper"]
        on = sum(bool(shaper.get(part)) for part in PARTS)
        if shaper["name"] == "adaptive" or shaper["name"] == "fixed":
            found.append((shaper["name"] == "adaptive", on, arm))
    if not any(adaptive and on < len(PARTS) for adaptive, on, _ in found):
        return None
    arms = [arm for _, _, arm in sorted(found, key=lambda row: row[:2])]
    rows = [results.summarize(arm, setting) for arm in arms]
    rows = [row for row in rows if row.ratio is not None]
    places = list(range(len(rows)))
    figure, (left, right) = theme.figure(1.4 + 0.36 * len(rows), columns=2)
    ratios = [row.ratio for row in rows if row.ratio is not None]
    fixed = {arm for adaptive, _, arm in found if not adaptive}
    colours = [theme.colour(1 if row.arm in fixed else 0) for row in rows]
    left.barh(places, [ratio.mean for ratio in ratios], 0.62, color=colours)
    left.errorbar(
        [ratio.mean for ratio in ratios],
        places,
        xerr=whiskers(ratios),
        fmt="none",
        ecolor=theme.ink,
    )
    right.barh(places, [row.tau or 0.0 for row in rows], 0.62, color=colours)
    left.set_yticks(places, [results.label(row.arm, 36) for row in rows])
    right.set_yticks(places, [""] * len(rows))
    for axes, name in ((left, f"× AR, {setting.label}"), (right, "τ")):
        theme.add_title(axes, name)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    theme.add_reference(left, vertical=True)
    return figure
