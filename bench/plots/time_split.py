"""The time of a token, split."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results
from ..statistics import mean

ORDER = 8
TITLE = "Where the time goes"
CAPTION = (
    "Milliseconds per token after the first, split into drafting, verifying (the target's forward and "
    "the verdict) and the rest (shaping trees, committing the accepted path). Hugging Face's arms are "
    "not split, because their steps are not observed."
)
MOST = 16
PARTS = ("draft", "verify", "commit")


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set at its longest."""
    setting = results.longest_settings[0]
    found = []
    for arm in results.by_arm:
        rows = [row for row in results.rows(arm, setting) if row["tpot_ms"]]
        whole = mean(row["tpot_ms"] for row in rows)
        split = [row for row in rows if row["draft_share"] is not None]
        parts = [mean(row[f"{part}_share"] * row["tpot_ms"] for row in split) for part in PARTS]
        if whole:
            found.append((arm, whole, parts))
    found = sorted(found, key=lambda row: row[1])[:MOST]
    if not found:
        return None
    figure, (axes,) = theme.figure(1.3 + 0.34 * len(found))
    names = ("draft", "verify", "shape and commit")
    for place, (_, whole, parts) in enumerate(found):
        if None in parts:
            axes.barh(place, whole, 0.62, color=theme.soft, label="not split")
            continue
        start = 0.0
        for index, part in enumerate(parts):
            axes.barh(
                place, part or 0.0, 0.62, left=start, color=theme.colour(index), label=names[index]
            )
            start += part or 0.0
    axes.set_yticks(range(len(found)), [results.label(arm) for arm, _, _ in found])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"ms per token, {setting.label}")
    once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        once.values(), once.keys(), loc="outside lower center", ncols=4, frameon=False,
        labelcolor=theme.ink, fontsize=9,
    )  # fmt: skip
    return figure
