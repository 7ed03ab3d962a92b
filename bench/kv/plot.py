"""Perplexity and memory over the KV budget, one line per policy, drawn from the table alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from .quality import FULL, Quality, line_of


def draw(rows: Sequence[Quality], path: Path) -> None:
    """Write the figure to `path` (.png or .svg)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    lines: dict[str, list[Quality]] = defaultdict(list)
    for row in rows:
        if row.budget is not None:
            lines[line_of(row.kv)].append(row)
    panels = (
        ("perplexity", "perplexity", lambda row: row.perplexity),
        ("agreement with full", "share of first choices", lambda row: row.agreement),
        ("KV held", "MiB", lambda row: row.kv_bytes / 2**20),
    )
    full = next(row for row in rows if row.kv == FULL)
    for axes, (title, unit, value) in zip(figure.subplots(1, 3), panels, strict=True):
        for number, (name, points) in enumerate(sorted(lines.items())):
            points.sort(key=lambda row: row.budget or 0)
            axes.plot(
                [row.budget for row in points],
                [value(row) for row in points],
                marker="osD^vP*X"[number % 8],
                linestyle=("-", "--", ":")[number // 10 % 3],
                color=f"C{number % 10}",
                label=name,
            )
        axes.axhline(value(full), color="black", linewidth=1, linestyle=(0, (4, 2)), label=FULL)
        axes.set(title=title, xlabel="budget, positions", ylabel=unit, xscale="log")
        ticks = sorted({row.budget for row in rows if row.budget})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize="small")
    figure.suptitle(f"{full.target}, {full.scored_tokens} tokens of {full.text}", fontsize="medium")
    figure.savefig(path, dpi=150)
