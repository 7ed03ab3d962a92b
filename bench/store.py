"""A folder of results: one part file per request, so that a crash loses only the one in flight.

A request's steps and nodes are written before its row in `requests`, so every row there is complete.
At the end the parts of a table become one file. A writer holds the folder's lock; a reader changes
nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import asdict, frozen

from toolkit import ToolkitError, schema, write_part
from toolkit.extras import require_extra
from toolkit.records import Out
from toolkit.words import shorten

from .columns import SCHEMA_VERSION, TABLES
from .dataset_loading import path_exists
from .lock import NAME as LOCK

Row = dict[str, Any]


def require_new_folder(out: Path | None) -> None:
    """Raise `ToolkitError` when `out` is there already or cannot be written, or nothing can draw."""
    if out is None:
        return
    if out.exists():
        raise ToolkitError(f"--out {out} is there already: name a new folder")
    Out.at(out)
    require_extra("--out", "plots", "matplotlib")


def save_rows(rows: Sequence[Any], out: Path | None, name: str) -> None:
    """Write attrs rows of one class to `out`/`name`.parquet; nothing without `out`."""
    if out is None:
        return
    try:
        out.mkdir(exist_ok=True)
        write_part(out / f"{name}.parquet", [asdict(row) for row in rows], schema(type(rows[0])))
    except OSError as error:
        raise ToolkitError(
            f"--out {out} cannot be written ({error.strerror or error}): name another folder"
        ) from error


@frozen
class Store:
    """Results in a folder, with a subfolder per table."""

    path: Path

    @classmethod
    def new(cls, path: Path) -> Store:
        """The folder of a new bench. Raises `ToolkitError` unless it is empty or absent."""
        try:
            files = path.rglob("*") if path.exists() else ()
            taken = any(file.is_file() and file.name != LOCK for file in files)
        except OSError as error:
            raise ToolkitError(
                f"results cannot be written to {shorten(str(path))} ({error.strerror}): name another "
                f"with --out"
            ) from error
        if taken:
            raise ToolkitError(
                f"{path} is there already: continue it with --resume, or name another with --out"
            )
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Store:
        """A folder of an earlier bench. Raises `ToolkitError` for no results or another version."""
        if not (path_exists(path) and path.is_dir()):
            raise ToolkitError(
                f"no results folder {shorten(str(path))}: `toolkit bench --out FOLDER` makes one"
            )
        store = cls(path)
        runs = [store._read(file) for file in store._files("runs")]
        if not sum(map(len, runs)):
            raise ToolkitError(
                f"{path} holds no results of `toolkit bench`: a runs folder is missing in it"
            )
        if not all("schema_version" in run.column_names for run in runs):
            raise ToolkitError(
                f"{path} holds results of `toolkit run --out`, not of `toolkit bench`: it has no arms"
            )
        versions = {version for run in runs for version in run["schema_version"].to_pylist()}
        if versions != {SCHEMA_VERSION}:
            raise ToolkitError(
                f"{path} holds results of schema version {', '.join(sorted(map(str, versions)))}, and "
                f"this toolkit reads {SCHEMA_VERSION}: use the version that wrote it (column "
                f"toolkit_version), or measure again"
            )
        return store

    def write(self, table: str, number: int, rows: list[Row]) -> None:
        """Write one part file atomically. Raises `ToolkitError` when it cannot be written."""
        folder = self.path / table
        with self._report_failure(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_part(folder / f"part-{number:06d}.parquet", rows, TABLES[table])

    def rows(self, table: str) -> list[Row]:
        """All rows of a table, in the order of their parts. Raises `ToolkitError` for damaged files."""
        return [
            row for file in self._files(table) for row in self._columns(table, file).to_pylist()
        ]

    def compact(self) -> None:
        """Merge each table's parts into one file; a crash in between loses nothing."""
        for table, form in TABLES.items():
            folder, fresh = self.path / table, self.path / f"{table}.new"
            if len(list(folder.glob("*.parquet"))) < 2:
                continue
            whole = pa.concat_tables([self._columns(table, file) for file in self._files(table)])
            with self._report_failure(fresh):
                fresh.mkdir()
                write_part(fresh / "all.parquet", whole.to_pylist(), form)
                folder.rename(self.path / f"{table}.old")
                fresh.rename(folder)
                shutil.rmtree(self.path / f"{table}.old")

    @property
    def resumable(self) -> bool:
        """Whether it holds the first file of a bench, which says what to continue."""
        return bool(self._files("runs"))

    @contextmanager
    def _report_failure(self, folder: Path) -> Iterator[None]:
        """Turn an `OSError` into a one-line error."""
        try:
            yield
        except OSError as error:
            kept = "finished requests are kept; free some space, then continue with --resume"
            new = "nothing was measured yet; free some space, or name another folder with --out"
            advice = kept if self.resumable else new
            raise ToolkitError(
                f"cannot write to {folder} ({error.strerror or error}): {advice}"
            ) from error

    def recover(self) -> None:
        """Finish or undo a compaction that was interrupted."""
        for table in TABLES:
            folder, old, fresh = (self.path / f"{table}{end}" for end in ("", ".old", ".new"))
            if old.is_dir() and not folder.is_dir():
                old.rename(folder)
            for rest in (old, fresh):
                shutil.rmtree(rest, ignore_errors=True)

    def _files(self, table: str) -> list[Path]:
        """A table's files; after an interrupted compaction, those from before it."""
        folder, old = self.path / table, self.path / f"{table}.old"
        return sorted((folder if folder.is_dir() else old).glob("*.parquet"))

    def _columns(self, table: str, file: Path) -> pa.Table:
        """A file's rows with the columns of its table. Raises `ToolkitError`."""
        found, form = self._read(file), TABLES[table]
        missing = [name for name in form.names if name not in found.column_names]
        if missing:
            raise ToolkitError(
                f"{file} has no column {missing[0]!r}: it is not of this version's bench; measure again"
            )
        try:
            return found.select(form.names).cast(form)
        except (ValueError, pa.ArrowException) as error:
            raise ToolkitError(f"{file} holds values that no bench writes: {error}") from error

    def _read(self, file: Path) -> pa.Table:
        try:
            return pq.ParquetFile(file).read()
        except FileNotFoundError as error:
            raise ToolkitError(
                f"{file} is gone: a bench has just finished in {self.path}, try again"
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise ToolkitError(
                f"{file} cannot be read ({error}): it is damaged, delete it"
            ) from error
