"""Recorded requests, read from a results folder with node rows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import frozen

from toolkit.errors import ToolkitError
from toolkit.nodes import Node
from toolkit.words import shorten

TIMES = ("draft_ms", "shape_ms", "verify_ms", "commit_ms")
SPECS = ("target", "drafter", "shaper", "verifier", "kv", "draft_kv")
LIMITS = ("max_nodes_per_level", "max_nodes", "max_seconds")
KEYS = ("run_id", "request_id", "step")


@frozen
class RecordedStep:
    """The nodes of one step, root first, and its row of `steps`, empty where there is none."""

    number: int
    nodes: list[Node]
    row: dict[str, Any]

    @property
    def committed(self) -> list[Node]:
        """The nodes that the step commits: accepted ones, then the bonus."""
        accepted = [node for node in self.nodes if node.fate == "accepted"]
        return accepted + [node for node in self.nodes if node.fate == "bonus"]

    @property
    def times(self) -> dict[str, float]:
        """Milliseconds by part; empty where they were not recorded."""
        return {name: self.row[name] for name in TIMES if name in self.row}


@frozen
class RecordedRequest:
    """One request with the nodes of all its steps."""

    number: int
    title: str
    specs: dict[str, str]
    steps: list[RecordedStep]

    @property
    def choices(self) -> str:
        """Target, strategies and limits, as options of the command line."""
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.specs.items())

    def step(self, number: int) -> RecordedStep:
        """A step by its number. Raises `ToolkitError` when there is none."""
        if not 0 <= number < len(self.steps):
            raise ToolkitError(
                f"request {self.number} has no step {number}: its steps are 0 to {len(self.steps) - 1}"
            )
        return self.steps[number]


def read_recording(folder: Path) -> list[RecordedRequest]:
    """The requests of a results folder that have node rows. Raises `ToolkitError` for none."""
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise ToolkitError(
            f"{shorten(str(folder))} {kind}: give a folder that `toolkit run --record nodes --out "
            f"FOLDER` or `toolkit bench --record nodes` has written"
        )
    if not any(folder.glob("nodes/*.parquet")):
        raise ToolkitError(
            f"{shorten(str(folder))} has no node rows: record them with `toolkit run --record nodes "
            f"--out FOLDER`, or with `toolkit bench --record nodes`"
        )
    runs = {row["run_id"]: row for row in _read_rows(folder / "runs")}
    requests = {(row["run_id"], row["request_id"]): row for row in _read_rows(folder / "requests")}
    steps = {tuple(row[k] for k in KEYS): row for row in _read_rows(folder / "steps")}
    found = []
    nodes = _read_rows(folder / "nodes", KEYS + tuple(a.name for a in attrs.fields(Node)))
    for key, rows in groupby(nodes, lambda row: (row["run_id"], row["request_id"])):
        if key in requests and key[0] in runs:  # else a request that was never finished
            title = _title(requests[key])
            run = runs[key[0]]
            specs = {name: run[name] for name in SPECS}
            specs |= {name: str(run[name]) for name in LIMITS if run.get(name)}
            found.append(RecordedRequest(key[1], title, specs, _steps(rows, steps)))
    if not found:
        raise ToolkitError(f"{shorten(str(folder))} has no finished request: record one to its end")
    return sorted(found, key=lambda request: request.number)


def choose_request(requests: list[RecordedRequest], number: int) -> RecordedRequest:
    """A request by its number. Raises `ToolkitError` when there is none."""
    for request in requests:
        if request.number == number:
            return request
    known = ", ".join(str(request.number) for request in requests)
    raise ToolkitError(f"no request {number} has node rows here: there are {shorten(known)}")


def _steps(
    rows: Iterable[dict[str, Any]], known: dict[tuple[Any, ...], dict[str, Any]]
) -> list[RecordedStep]:
    steps = []
    for key, of_step in groupby(rows, lambda row: tuple(row[k] for k in KEYS)):
        nodes = [Node(**{k: v for k, v in row.items() if k not in KEYS}) for row in of_step]
        steps.append(RecordedStep(key[2], nodes, known.get(key, {})))
    return steps


def _title(row: dict[str, Any]) -> str:
    """A request in words; one of a bench names its arm and prompt."""
    title = f"request {row['request_id']}"
    if "arm" in row:
        title += f": {row['arm']}, {row['dataset']} {row['prompt_index']}, {row['split']}"
    return title


def _read_rows(folder: Path, columns: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """All rows of a table, in the order of its files; none without its folder."""
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.parquet")):
        try:
            table = pq.ParquetFile(file).read()
        except (OSError, pa.ArrowException) as error:
            raise ToolkitError(
                f"{file} cannot be read ({error}): it is damaged, record the results anew"
            ) from error
        missing = [name for name in columns or () if name not in table.column_names]
        if missing:
            raise ToolkitError(
                f"{file} has no column {missing[0]!r}: another version of the toolkit wrote it, record "
                f"the results anew"
            )
        rows += (table.select(columns) if columns else table).to_pylist()
    return rows
