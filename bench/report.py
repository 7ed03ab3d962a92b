"""The report: one self-contained HTML page, with its figures as PNG and SVG files beside it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from toolkit import ToolkitError
from toolkit.figures import PageFigure, draw_figures, render_page

from .keys import Setting
from .machine import describe_machine
from .results import Results, Summary
from .table import (
    format_number,
    format_ratio,
    format_verdicts,
    list_closing_notes,
    list_findings,
    list_notes,
)

ENVIRONMENT = (
    "created toolkit_version toolkit_revision python torch transformers platform device cuda "
    "gpu_driver cpu threads isa torch_isa dtype numerics target target_revision"
).split()


def write(results: Results, folder: Path, measured: Path | None = None) -> Path:
    """Write page and figures to a folder and return the page's path. Raises `ToolkitError`.

    `measured`: the folder of the results. Where it has node rows, a page of trees is written, too.
    """
    if not results.tested:
        raise ToolkitError("there is nothing to report yet: no measured request is in the results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trees = _write_trees(measured, folder / "trees.html") if measured else 0
        text = render(results, _draw(results, folder), trees)
        (folder / "index.html").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ToolkitError(
            f"the report cannot be written to {folder} ({error.strerror}): name another with --out"
        ) from error
    return folder / "index.html"


def _write_trees(measured: Path, page: Path) -> int:
    """Write the page of recorded trees; the number of requests on it, 0 without node rows."""
    if not any(measured.glob("nodes/*.parquet")):
        return 0
    from toolkit.show.page import choose_first, draw_page
    from toolkit.show.recording import read_recording

    requests = choose_first(read_recording(measured))
    page.write_text(draw_page(requests), encoding="utf-8")
    return len(requests)


def render(results: Results, figures: list[PageFigure], trees: int = 0) -> str:
    """The page as HTML; `trees` is the number of requests on the page of trees beside it."""
    template = (files(__package__) / "report.html").read_text(encoding="utf-8")
    return render_page(template, "toolkit bench", figures=figures, trees=trees, **_collect(results))


def _collect(results: Results) -> dict[str, Any]:
    """The text, tables and numbers of the page."""
    first = results.runs[0]
    return {
        "machine": describe_machine(first),
        "environment": {name: first[name] for name in ENVIRONMENT if first[name] is not None},
        "bandwidth": f"{first['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s",
        "plan": first["plan"],
        "tables": [_tabulate(results, setting) for setting in results.settings],
        "arms": [
            {
                "name": results.label(arm, most=120),
                "spec": run["arm_spec"],
                "tuned": run["tuned"],
                "promise": "yes" if run["lossless"] else "declared lossy",
                "synthetic": run["synthetic"],
            }
            for arm, run in results.by_arm.items()
        ],
        "closing": list_closing_notes(results),
        "findings": list_findings(results),
        "banner": "bad" if _is_bad(results) else "good" * results.is_sound,
        "requests": len(results.tested),
    }


def _tabulate(results: Results, setting: Setting) -> dict[str, Any]:
    rows = [results.summarize(arm, setting) for arm in results.by_arm]
    return {
        "title": setting.title,
        "rows": [_format_cells(row) for row in rows if row.prompts],
        "notes": list_notes(results, setting),
    }


def _is_bad(results: Results) -> bool:
    """Whether something that was found forbids to use the figures."""
    return bool(results.divergent or results.off_law or results.is_unsteady)


def _format_cells(summary: Summary) -> dict[str, Any]:
    others = "divergent" in summary.verdicts  # than AR's: never green
    colours = {
        "faster": "" if others or summary.synthetic else "good",
        "slower": "bad",
        "divergent": "bad",
        "other law": "bad",
        "unsteady": "bad",
    }
    return {
        "arm": summary.label,
        "prompts": summary.prompts,
        "tokens_per_s": format_number(summary.tokens_per_s, 1),
        "ratio": format_ratio(summary.ratio, summary.is_baseline),
        "reading": summary.reading,
        "colour": colours.get(summary.reading, ""),
        "whole": format_ratio(summary.request_ratio, summary.is_baseline),
        "ttft_ms": format_number(summary.ttft_ms, 1),
        "tpot_ms": format_number(summary.tpot_ms, 2),
        "tau": format_number(summary.tau, 2),
        "path_length": format_number(summary.path_length, 2),
        "acceptance": format_number(summary.acceptance, 2),
        "distinct": format_number(summary.distinct_3grams, 2),
        "verdicts": format_verdicts(summary.verdicts),
        "others": others,
    }


def _draw(results: Results, folder: Path) -> list[PageFigure]:
    """Write every figure that the results can fill to the folder."""
    from .plots import list_figures

    return draw_figures(list_figures(), results, describe_machine(results.runs[0]), folder)
