"""Acceptance by position, and how long accepted paths are."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toolkit.bootstrap import bootstrap_share
from toolkit.theme import Theme

from ..results import Results
from ..store import Row

ORDER = 7
TITLE = "Acceptance by position"
CAPTION = (
    "Left: the share of all drafts that had a token accepted at a position, with its 95 % bootstrap "
    "interval over prompts. Right: the share of drafts by the number of tokens that were accepted. A "
    "draft is a step that drafted a token (vLLM's definitions). All requests of an arm together."
)
MOST = 8  # arms


def draw(results: Results, theme: Theme) -> Figure | None:
    """None unless an arm of ours drafted."""
    counted = [(arm, count(results.rows(arm))) for arm in results.list_ours()]
    counted = [(arm, counts) for arm, counts in counted if counts.size and counts[:, 0].sum()][
        :MOST
    ]
    if not counted:
        return None
    figure, (left, right) = theme.figure(3.9, columns=2)
    for index, (arm, counts) in enumerate(counted):
        colour, label = results.colour(arm, theme), results.label(arm, 34)
        totals = counts.sum(axis=0)
        shares = totals[1:] / totals[0]
        ends = [bootstrap_share(counts[:, n], counts[:, 0]) for n in range(1, len(totals))]
        bars = [[abs(end[i] - s) for end, s in zip(ends, shares, strict=True)] for i in (0, 1)]
        moved = np.arange(1, len(totals)) + 0.06 * (index - (len(counted) - 1) / 2)  # side by side
        left.errorbar(
            moved, shares, yerr=bars, marker="o", markersize=4, capsize=2, elinewidth=1, color=colour,
            label=label,
        )  # fmt: skip
        lengths = -np.diff(totals, append=0) / totals[0]
        right.plot(range(len(lengths)), lengths, marker="o", markersize=4, color=colour)
    for axes, title in (
        (left, "share of drafts accepted at a position"),
        (right, "accepted lengths"),
    ):
        theme.add_title(axes, title)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("position below the root")
    right.set_xlabel("tokens accepted")
    theme.add_legend(figure, left, 2)
    return figure


def count(rows: list[Row]) -> np.ndarray:
    """Counts [prompts, 1 + positions]: a prompt's drafts, and those with a token accepted at each."""
    known = [row for row in rows if row["reached_by_depth"]]
    deepest = max((len(row["reached_by_depth"]) for row in known), default=0)
    prompts = sorted({(row["dataset"], row["prompt_index"]) for row in known})
    counts = np.zeros((len(prompts), 1 + deepest))
    for row in known:
        own = counts[prompts.index((row["dataset"], row["prompt_index"]))]
        own[0] += row["reached_by_depth"][0]
        own[1 : 1 + len(row["accepted_by_depth"])] += row["accepted_by_depth"]
    return counts
