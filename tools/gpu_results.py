"""Rows of the GPU bench: kept as they come, shown as Markdown, written as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import asdict, define, fields, frozen
from gpu_goals import FALLEN, describe


@frozen
class Row:
    """One figure: what was measured, of what, in which dtype."""

    stage: str
    subject: str
    dtype: str
    measure: str
    value: float | None
    unit: str
    note: str


ROWS = "rows.jsonl"  # of all stages, as they come


@define
class Results:
    """Writes a stage's rows as they come."""

    stage: str
    folder: Path
    rehearse: bool

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def dtype(self) -> str:
        return "fp32" if self.rehearse else "bf16"

    def add(
        self, subject: str, measure: str, value: float | None, unit: str = "", note: str = "",
        dtype: str = "",
    ) -> None:  # fmt: skip
        """Keep a figure and print it. A note becomes one line, which tables need."""
        note = " ".join(note.split())
        row = Row(self.stage, subject, dtype, measure, value, unit, note)
        with (self.folder / ROWS).open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        shown = "" if value is None else f"{value:.4g} {unit}"
        line = "  ".join(part for part in (subject, dtype, measure, shown, note) if part)
        click.secho(line, fg="red" if measure in FALLEN else None, bold=measure in FALLEN)

    @contextmanager
    def surviving(self, subject: str) -> Iterator[None]:
        """Keep what goes wrong as a row, and go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 whatever a kernel or a library may raise
            self.add(subject, "failed", None, note=f"{type(error).__name__}: {error}"[:300])


def read_rows(folder: Path, stages: Iterable[str]) -> list[dict[str, Any]]:
    """All rows of these stages so far, in the order of the stages."""
    file = folder / ROWS
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for stage in stages for row in rows if row["stage"] == stage]


def keep_rows(folder: Path, stages: Iterable[str]) -> None:
    """Drop the rows of all other stages."""
    lines = [json.dumps(row) + "\n" for row in read_rows(folder, stages)]
    (folder / ROWS).write_text("".join(lines))


def write_results(folder: Path, stages: Iterable[str], *, rehearsed: bool) -> None:
    """Write `gpu.md` and `gpu.parquet` from all rows so far."""
    rows, lines = read_rows(folder, stages), ["# GPU bench", ""]
    if rehearsed:
        lines += ["Rehearsed on a CPU with small models: these figures say nothing about a GPU.", ""]
    lines += describe(rows)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        lines += [
            "",
            f"## {stage}",
            "",
            "| what | dtype | measure | value | |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            if row["stage"] == stage:
                value = "" if row["value"] is None else f"{row['value']:.4g} {row['unit']}".strip()
                cells = row["subject"], row["dtype"], row["measure"], value, row["note"]
                lines.append("| " + " | ".join(cell.replace("|", "¦") for cell in cells) + " |")
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [field.name for field in fields(Row)]
    schema = pa.schema([(name, pa.float64() if name == "value" else pa.string()) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "gpu.parquet")
