"""The report of a cascade: a table in the terminal, and an HTML page with figures."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import ToolkitError
from toolkit.figures import draw_figures, render_page

from .plots import curve, regret, reliability, usage
from .replay import Interval
from .study import Row, Study

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "policy", "kept", "quality [95 %]", "of the large", "cost", "× large [95 %]", "ceiling", "stops",
)  # fmt: skip


def write_report(study: Study, folder: Path) -> Path:
    """Write page and figures to a folder and return the page's path. Raises `ToolkitError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note = f"{len(study.draws)} prompts, {study.held.stages} stages, cost in {study.cost}"
        figures = draw_figures((curve, usage, reliability, regret), study, note, folder)
        template = (files(__package__) / "report.html").read_text(encoding="utf-8")
        page = render_page(
            template, "toolkit cascade", note=note, figures=figures, stages=study.held.stages,
            tables=list_tables(study), notes=list_notes(study),
        )  # fmt: skip
        (folder / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise ToolkitError(
            f"the report cannot be written to {folder} ({error.strerror}): name another with --out"
        ) from error
    return folder / "index.html"


def make_tables(study: Study) -> list[Table]:
    """The tables of the report, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    tables = []
    for _, columns, rows in list_tables(study):
        table = Table(box=None, pad_edge=False)
        for number, name in enumerate(columns):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        tables.append(table)
    return tables


def list_tables(study: Study) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Title, columns and cells of each table: the stages, and the policies' speed-ups."""
    alone = ("stage", "quality [95 %]", f"cost, {study.cost}")
    return [
        ("Stages alone", alone, list_stages(study)),
        ("Speed-ups at a kept quality", COLUMNS, list_rows(study)),
    ]


def list_stages(study: Study) -> list[list[str]]:
    """The cells of each stage alone."""
    return [
        [name, found.quality.describe(".3f"), f"{found.cost.mean:.4g}"]
        for name, found in zip(study.stages, study.alone, strict=True)
    ]


def list_rows(study: Study) -> list[list[str]]:
    """The cells of each policy at each kept share, in the order of `COLUMNS`."""
    ceilings = {row.kept: row.speedup for row in study.rows if row.policy == "oracle"}
    return [_cells(row, ceilings[row.kept]) for row in study.rows]


def _cells(row: Row, ceiling: Interval | None) -> list[str]:
    head = [row.policy, f"{row.kept:.0%}"]
    if row.held is None or row.speedup is None:
        return [*head, "not reached", *["–"] * (len(COLUMNS) - 3)]
    return [
        *head,
        row.held.quality.describe(".3f"),
        "–" if row.share is None else f"{row.share:.1%}",
        f"{row.held.cost.mean:.4g}",
        row.speedup.describe(".2f"),
        "–" if ceiling is None else f"{ceiling.mean:.2f}",
        " / ".join(f"{share:.0%}" for share in row.held.usage),
    ]


def list_notes(study: Study) -> list[str]:
    """What to know before reading the table."""
    notes = [
        "kept: the share of the last stage's quality that a setting had to keep on the other half of "
        "the prompts, where settings were chosen. × large: mean cost of the last stage alone, divided "
        "by that of the cascade, which pays for every stage it runs. ceiling: the oracle's, chosen on "
        "these prompts with knowledge of all grades."
    ]
    if "drafter=none" in study.stages[-1]:
        notes.append(
            "The last stage was recorded without speculation, which flatters every cascade: record it "
            "as fast as it can be."
        )
    notes += [f"Left out: {why}" for why in study.left_out]
    over = [found.name for found in study.regret[1:] if found.after[:, -1].mean() > found.bound[-1]]
    learnt = study.regret[0]
    notes.append(
        f"Regret of expweights after {len(learnt.bound):,} prompts: "
        f"{learnt.after[:, -1].mean():.0f}, bound {learnt.bound[-1]:.0f}. Controls above the bound: "
        f"{', '.join(over) or 'none'}."
    )
    return notes
