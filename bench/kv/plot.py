"""Figures of both commands, drawn from their tables alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .context import Context
from .quality import FULL, Quality, line_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def quality(rows: Sequence[Quality], path: Path) -> None:
    """Perplexity, agreement and memory over the KV budget, a line per policy."""
    lines: dict[str, list[Quality]] = defaultdict(list)
    for row in rows:
        if row.budget is not None:
            lines[line_of(row.kv)].append(row)
    full = next(row for row in rows if row.kv == FULL)
    figure, panels = _panels(f"{full.target}, {full.scored_tokens} tokens of {full.text}")
    titles = ("perplexity", "agreement with full", "KV held")
    units = ("perplexity", "share of first choices", "MiB")
    for axes, title, unit, index in zip(panels, titles, units, range(3), strict=True):
        for number, (name, points) in enumerate(sorted(lines.items())):
            points.sort(key=lambda row: row.budget or 0)
            budgets = [row.budget or 0 for row in points]
            values = [_of_quality(row)[index] for row in points]
            axes.plot(budgets, values, label=name, **_style(number))
        level = _of_quality(full)[index]
        axes.axhline(level, color="black", linewidth=1, linestyle=(0, (4, 2)), label=FULL)
        _dress(axes, title, "budget, positions", unit, {row.budget for row in rows if row.budget})
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)


def _of_quality(row: Quality) -> tuple[float, float, float]:
    return row.perplexity, row.agreement, row.kv_bytes / 2**20


def context(rows: Sequence[Context], path: Path) -> None:
    """Tokens/s, its ratio to AR under full, and peak KV over context length, a line per arm."""
    lines: dict[str, list[Context]] = defaultdict(list)
    for row in rows:
        lines[f"{row.drafter}\nkv {row.kv}"].append(row)
    first = rows[0]
    figure, panels = _panels(
        f"{first.target}, {first.new_tokens} tokens decoded, rounds: {first.rounds}\n{first.machine}"
    )
    titles = ("speed", "against AR under full", "KV at most")
    units = ("tokens/s", "ratio", "MiB, target's and drafter's")
    for axes, title, unit, index in zip(panels, titles, units, range(3), strict=True):
        for number, (name, points) in enumerate(lines.items()):
            lengths = [row.prompt_tokens for row in points]
            values = [_of_context(row)[index] for row in points]
            axes.plot(lengths, values, label=name, **_style(number))
        _dress(axes, title, "context, tokens", unit, {row.prompt_tokens for row in rows})
        axes.set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)


def _of_context(row: Context) -> tuple[float, float, float]:
    memory = (row.kv_peak_bytes + row.draft_kv_bytes) / 2**20
    return row.tokens_per_s, row.against_ar, memory


def _panels(title: str) -> tuple[Any, list[Axes]]:
    """A figure of three panels, without any window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium")
    return figure, list(figure.subplots(1, 3))


def _style(number: int) -> dict[str, Any]:
    lines = ("-", "--", ":")[number // 10 % 3]
    return {"marker": "osD^vP*X"[number % 8], "color": f"C{number % 10}", "linestyle": lines}


def _dress(axes: Axes, title: str, x: str, y: str, ticks: set[int]) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log")
    axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    axes.minorticks_off()
