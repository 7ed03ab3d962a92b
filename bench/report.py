"""The report: one HTML page that holds everything, and its figures as PNG and SVG beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from toolkit import ToolkitError

from .machine import describe_machine
from .results import Results, name_of
from .table import closing, notes, number, outputs

ENVIRONMENT = (
    "created toolkit_version git_revision python torch transformers platform device cpu threads isa "
    "torch_isa dtype numerics target target_revision"
).split()


RC = {
    "svg.hashsalt": "toolkit",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a $ in an arm's name is no formula
}


@frozen
class Shown:
    """One figure as the page shows it: a data URI per theme."""

    name: str
    title: str
    caption: str
    images: dict[str, str]


def write(results: Results, folder: Path) -> Path:
    """Write page and figures into a folder; returns the page. Raises `ToolkitError`."""
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ToolkitError(_missing("jinja2")) from error
    if not results.tested:
        raise ToolkitError("there is nothing to report yet: no measured request is in the results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        template = (files(__package__) / "report.html").read_text(encoding="utf-8")
        page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
            template
        )
        text = page.render(**_content(results), figures=list(_drawn(results, folder)))
        (folder / "index.html").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ToolkitError(
            f"the report cannot be written to {folder} ({error.strerror}): name another with --out"
        ) from error
    return folder / "index.html"


def _content(results: Results) -> dict[str, Any]:
    """What the page says in words and numbers."""
    first = results.runs[0]
    return {
        "machine": describe_machine(first),
        "environment": {name: first[name] for name in ENVIRONMENT if first[name] is not None},
        "bandwidth": f"{first['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s",
        "plan": first["plan"],
        "tables": [_table(results, setting) for setting in results.settings],
        "arms": [
            {
                "name": arm,
                "spec": run["arm_spec"],
                "tuned": run["tuned"],
                "lossless": run["lossless"],
            }
            for arm, run in results.by_arm.items()
        ],
        "closing": closing(results),
        "divergent": len(results.divergent),
        "uncompared": results.uncompared,
        "requests": len(results.tested),
    }


def _table(results: Results, setting: Any) -> dict[str, Any]:
    rows = []
    for arm in results.by_arm:
        figures = results.figures(arm, setting)
        if figures["prompts"]:
            rows.append(_cells(figures))
    return {"title": name_of(setting), "rows": rows, "notes": notes(results, setting)}


def _cells(figures: dict[str, Any]) -> dict[str, Any]:
    ratio, whole, baseline = figures["ratio"], figures["whole_ratio"], figures["is_baseline"]
    bad = figures["lossless"] and "divergent" in figures["verdicts"]
    return {
        "arm": figures["arm"],
        "prompts": figures["prompts"],
        "tokens_per_s": number(figures["tokens_per_s"], 1),
        "ratio": "1" if baseline else ratio.text if ratio else "–",
        "reading": "baseline" if baseline else ratio.reading if ratio else "–",
        "whole": "1" if baseline else whole.text if whole else "–",
        "ttft_ms": number(figures["ttft_ms"], 1),
        "tpot_ms": number(figures["tpot_ms"], 2),
        "tau": number(figures["tau"], 2),
        "path_length": number(figures["path_length"], 2),
        "acceptance": number(figures["acceptance"], 2),
        "distinct": number(figures["distinct_3grams"], 2),
        "verdicts": outputs(figures["verdicts"]),
        "bad": bad,
    }


def _drawn(results: Results, folder: Path) -> Iterator[Shown]:
    """Every figure that the results can fill, written to the folder on the way."""
    try:
        import matplotlib as mpl

        from .plots import figures
        from .theme import THEMES
    except ImportError as error:
        raise ToolkitError(_missing("matplotlib")) from error
    for figure in figures():
        with mpl.rc_context(RC):
            images = {theme.name: _image(figure, results, theme, folder) for theme in THEMES}
        if all(images.values()):
            yield Shown(_name(figure), figure.TITLE, figure.CAPTION, images)


def _image(figure: ModuleType, results: Results, theme: Any, folder: Path) -> str:
    """One figure in one theme: files in the folder, and a data URI; empty when there is none."""
    drawn = figure.draw(results, theme)
    if drawn is None:
        return ""
    stem = folder / f"{_name(figure)}{'' if theme.name == 'light' else '-' + theme.name}"
    drawn.suptitle(describe_machine(results.runs[0]), x=0.01, ha="left", fontsize=8, color=theme.soft)
    drawn.savefig(stem.with_suffix(".png"), dpi=160)
    vector = io.BytesIO()
    drawn.savefig(vector, format="svg", metadata={"Date": None})
    stem.with_suffix(".svg").write_bytes(vector.getvalue())
    return "data:image/svg+xml;base64," + base64.b64encode(vector.getvalue()).decode()


def _name(figure: ModuleType) -> str:
    return figure.__name__.rpartition(".")[2]


def _missing(package: str) -> str:
    return f"the report needs {package}, not installed: pip install 'speculative-toolkit[plots]'"
