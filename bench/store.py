"""A folder of results: one part file per request, so that a crash loses the one in flight.

A request's steps and nodes are written before its row in `requests`: a row that is there is
complete. At the end the parts of a table become one file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import frozen

from toolkit import ToolkitError, write_part

from .tables import SCHEMA_VERSION, TABLES

Row = dict[str, Any]


@frozen
class Store:
    """Results in a folder with a sub-folder per table."""

    path: Path

    @staticmethod
    def vacant(path: Path) -> None:
        """Raise `ToolkitError` when a new bench cannot have this folder."""
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ToolkitError(
                f"{path} is there already: --resume goes on with it, or name another with --out"
            )

    @classmethod
    def new(cls, path: Path) -> Store:
        """A folder for a new bench. Raises `ToolkitError`."""
        cls.vacant(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ToolkitError(
                f"results cannot be written to {path} ({error.strerror}): name another with --out"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Store:
        """A folder that a bench has written. Raises `ToolkitError`: no results, another version."""
        if not path.is_dir():
            raise ToolkitError(f"no results folder {path}: `toolkit bench --out {path}` makes one")
        store = cls(path)
        store._recover()
        files = sorted((path / "runs").glob("*.parquet"))
        if not files:
            raise ToolkitError(
                f"{path} holds no results of `toolkit bench`: a runs folder is missing in it"
            )
        names = store._read(files[0]).column_names
        if "schema_version" not in names:
            raise ToolkitError(
                f"{path} holds results of `toolkit run --out`, not of `toolkit bench`: it has no arms"
            )
        versions = {row["schema_version"] for row in store.rows("runs")}
        if versions != {SCHEMA_VERSION}:
            raise ToolkitError(
                f"{path} holds results of schema version {', '.join(map(str, sorted(versions)))}, and "
                f"this toolkit reads {SCHEMA_VERSION}: use the version that wrote it (column "
                f"toolkit_version), or measure anew"
            )
        return store

    def write(self, table: str, number: int, rows: list[Row]) -> None:
        """One part file, whole or not there. Raises `ToolkitError` when the disk takes no more."""
        folder = self.path / table
        try:
            folder.mkdir(exist_ok=True)
            write_part(folder / f"part-{number:06d}.parquet", rows, TABLES[table])
        except OSError as error:
            raise ToolkitError(
                f"cannot write to {folder} ({error.strerror or error}): what was finished is kept; "
                f"make room, then go on with --resume"
            ) from error

    def rows(self, table: str) -> list[Row]:
        """All rows of a table, in the order of their parts."""
        files = sorted((self.path / table).glob("*.parquet"))
        return [row for file in files for row in self._read(file).to_pylist()]

    def compact(self) -> None:
        """Make one file of each table's parts; a crash on the way loses nothing."""
        for table, form in TABLES.items():
            folder, fresh = self.path / table, self.path / f"{table}.new"
            if len(list(folder.glob("*.parquet"))) < 2:
                continue
            fresh.mkdir()
            parts = sorted(folder.glob("*.parquet"))
            whole = pa.concat_tables([self._read(part) for part in parts])
            write_part(fresh / "all.parquet", whole.to_pylist(), form)
            folder.rename(self.path / f"{table}.old")
            fresh.rename(folder)
            shutil.rmtree(self.path / f"{table}.old")

    def _recover(self) -> None:
        """Finish or undo a compaction that was cut off."""
        for table in TABLES:
            folder, old, fresh = (self.path / f"{table}{end}" for end in ("", ".old", ".new"))
            if old.is_dir() and not folder.is_dir():
                old.rename(folder)
            for rest in (old, fresh):
                shutil.rmtree(rest, ignore_errors=True)

    def _read(self, file: Path) -> pa.Table:
        try:
            return pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise ToolkitError(
                f"{file} cannot be read ({error}): it is damaged, delete it"
            ) from error
