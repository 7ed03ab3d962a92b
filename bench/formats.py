"""The results of a bench on stdout: a table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

import click
from attrs import asdict

from toolkit.terminal import make_console

from .machine import describe_machine
from .results import Results, Summary
from .table import COLUMNS, format_cells, list_closing_notes, list_findings, list_notes, show


def print_results(results: Results, form: str) -> None:
    """Print the results on stdout as a `table` that fits the terminal, or as `md`, `csv` or `json`."""
    if form == "table":
        show(results, make_console())
    else:
        render = {"md": _render_markdown, "csv": _render_csv, "json": _render_json}[form]
        click.echo(render(results))


def list_figures(results: Results) -> list[dict[str, Any]]:
    """The figures of every arm under every setting, each arm with the machine and its AR arm."""
    return [
        {
            **asdict(setting),
            **_flatten(results.summarize(arm, setting)),
            "lossless": run["lossless"],
            "synthetic": run["synthetic"],
            "baseline": run["baseline"],
            "machine": describe_machine(run),
        }
        for setting in results.settings
        for arm, run in results.by_arm.items()
        if results.rows(arm, setting)
    ]


def _flatten(summary: Summary) -> dict[str, Any]:
    ratio, whole = summary.ratio, summary.request_ratio
    return {
        "arm": summary.arm,
        "prompts": summary.prompts,
        "tokens_per_s": summary.tokens_per_s,
        "against_ar": ratio.mean if ratio else None,
        "against_ar_low": ratio.low if ratio else None,
        "against_ar_high": ratio.high if ratio else None,
        "reading": summary.reading,
        "against_ar_with_ttft": whole.mean if whole else None,
        "ttft_ms": summary.ttft_ms,
        "tpot_ms": summary.tpot_ms,
        "tau": summary.tau,
        "acceptance": summary.acceptance,
        "distinct_3grams": summary.distinct_3grams,
        **{name: summary.verdicts.get(name, 0) for name in ("exact", "tie", "divergent")},
        "inconclusive": summary.verdicts.get("inconclusive", 0),
    }


def _render_json(results: Results) -> str:
    return json.dumps(list_figures(results), indent=2, ensure_ascii=False)


def _render_csv(results: Results) -> str:
    lines, text = list_figures(results), io.StringIO()
    writer = csv.DictWriter(text, lines[0] if lines else ["arm"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().rstrip("\n")


def _render_markdown(results: Results) -> str:
    lines = []
    for setting in results.settings:
        rows = [results.summarize(arm, setting) for arm in results.by_arm]
        lines += [f"### {setting.title}", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
        lines += [_row(format_cells(row)) for row in rows if row.prompts]
        lines += ["", *(f"- {note}" for note in list_notes(results, setting)), ""]
    notes = [*list_closing_notes(results), *list_findings(results)]
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


def _row(cells: Iterable[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]  # an arm's name may hold the separator
    return f"| {' | '.join(escaped)} |"
