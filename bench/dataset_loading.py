"""Load data sets: from the Hugging Face hub, or from files of JSON lines, Parquet or text."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from toolkit import Conversation, Dataset, Source, ToolkitError
from toolkit.words import shorten

from .prompts import CHARACTERS

Row = dict[str, Any]
Turns = Callable[[Iterable[Row]], Sequence[Conversation]]
UNREADABLE = (OSError, ValueError, EOFError, zlib.error, csv.Error, RecursionError)
READ = (".jsonl", ".parquet", ".csv", ".txt", ".json.gz", ".jsonl.gz")


def hub(
    name: str,
    help: str,  # noqa: A002 the field's own name
    repo: str,
    turns: Turns,
    *,
    split: str,
    config: str | None = None,
    chat: bool = False,
    most: int | None = None,
    grader: str = "",
    refer: Callable[[Row], str] | None = None,
) -> Dataset:
    """A data set of the hub, of which at most `most` rows are read.

    With a location, its rows are read from that file or folder instead: from the files of the same
    config and split, where the folder is a copy of the hub's. `refer` gives the reference of a row for
    `grader`; rows that lack its columns have no references.
    """

    def load(location: str | None) -> Source:
        if location is not None:
            rows, revision = read_local_rows(Path(location), config, split)
        else:
            rows, revision = read_hub_rows(name, repo, config, split, most)
        found = _convert(name, location or repo, rows, turns)
        return Source(found, revision, _list_references(rows, refer) if refer else ())

    return Dataset(name, help, load, chat, grader)


def web(name: str, help: str, url: str, turns: Turns, *, chat: bool = False) -> Dataset:  # noqa: A002
    """A data set that is one file of JSON lines on the web; otherwise as `hub`."""

    def load(location: str | None) -> Source:
        if location is not None:
            rows, revision = read_local_rows(Path(location))
            return Source(_convert(name, location, rows, turns), revision)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 an address of ours
                data: bytes = answer.read()
        except OSError as error:
            raise ToolkitError(
                f"data set {name} could not be downloaded ({error}): download {url} yourself, and give "
                f"its path: {name}:FILE.jsonl"
            ) from error
        rows = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
        return Source(
            _convert(name, url, rows, turns), f"sha256:{hashlib.sha256(data).hexdigest()}"
        )

    return Dataset(name, help, load, chat)


def _list_references(rows: list[Row], refer: Callable[[Row], str]) -> list[str]:
    """The reference of every row; none where a row lacks the columns for it."""
    try:
        return [refer(row) for row in rows]
    except (KeyError, IndexError, TypeError):
        return []


def _convert(name: str, place: str, rows: list[Row], turns: Turns) -> Sequence[Conversation]:
    """Convert rows to conversations. Raises `ToolkitError` when they have another form."""
    try:
        return turns(rows)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        columns = f"columns {', '.join(rows[0])}" if rows else "no rows"
        raise ToolkitError(
            f"data set {name}: {place} has rows of another form, with {columns} "
            f"({type(error).__name__}: {error})"
        ) from error


def read_hub_rows(
    name: str, repo: str, config: str | None, split: str, most: int | None
) -> tuple[list[Row], str]:
    """Read the rows of a data set on the hub, and its commit. Raises `ToolkitError`."""
    get = f"download it with `hf download {repo} --repo-type dataset` and give its path: {name}:FOLDER"
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ToolkitError(
            f"data set {name} needs the package datasets, which is not installed: "
            f"pip install 'speculative-toolkit[datasets]'; or {get}"
        ) from error
    from huggingface_hub import HfApi

    try:
        revision = HfApi().dataset_info(repo).sha or "main"
        loaded = load_dataset(
            repo, config, split=split, revision=revision, streaming=most is not None
        )
        return list(loaded.take(most) if most is not None else loaded), revision
    except Exception as error:  # of many kinds: no network, no such set, another format
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ToolkitError(f"data set {name} could not be loaded ({first}): {get}") from error


def read_local_rows(
    path: Path, config: str | None = None, split: str | None = None
) -> tuple[list[Row], str]:
    """Read the rows of a file, or of a folder's readable files in the order of their names, and their
    sha256. Of a folder that has files of a config and split, only these are read.

    Raises `ToolkitError`.
    """
    if not path_exists(path):
        raise ToolkitError(
            f"no file or folder {shorten(str(path))}: a local data set is {', '.join(READ[:4])}"
        )
    inside = sorted(file for file in path.rglob("*") if file.name.endswith(READ))
    files = _files_of(inside, path, config, split) if path.is_dir() else [path]
    if not files:
        raise ToolkitError(f"folder {path} holds no file of a kind that is read: {', '.join(READ)}")
    import pyarrow as pa

    total = hashlib.sha256()
    rows: list[Row] = []
    for file in files:
        try:
            total.update(file.read_bytes())
            rows += _rows(file)
        except (*UNREADABLE, pa.ArrowException) as error:
            raise ToolkitError(f"data set file {file} cannot be read: {error}") from error
    return rows, f"sha256:{total.hexdigest()}"


def _files_of(
    files: list[Path], folder: Path, config: str | None, split: str | None
) -> list[Path]:
    """The files that copies of the hub's folders have for a config (a folder's name) and a split (a
    word in the name of a file, or a folder's name); all files where none is named so."""
    if config is not None:
        files = [file for file in files if config in file.relative_to(folder).parts[:-1]] or files
    if split is not None:
        word = re.compile(rf"(^|[-_./]){re.escape(split)}([-_./]|$)")
        named = [file for file in files if word.search(file.relative_to(folder).as_posix())]
        files = named or files
    return files


def path_exists(path: Path) -> bool:
    """Whether a file or folder of this name exists; an impossible name does not."""
    try:
        return path.exists()
    except OSError:
        return False


def _rows(file: Path) -> list[Row]:
    if file.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    text = data.decode("utf-8")
    if file.name.endswith(".txt"):
        return [{"text": text}]
    if file.name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    if file.name.endswith((".jsonl", ".jsonl.gz", ".json.gz")):
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("every line must be a JSON object")
        return rows
    raise ValueError(f"its name must end in {', '.join(READ)}")


def read_local(path: Path, column: str | None) -> Source:
    """Read a user's file: a column of text or of lists of turns, or the lines of a .txt file.

    Raises `ToolkitError`.
    """
    rows, revision = read_local_rows(path)
    if path.is_file() and path.suffix == ".txt":
        lines = rows[0]["text"].splitlines() if rows else []
        return Source([(line,) for line in lines if line.strip()], revision)
    if not rows:
        raise ToolkitError(f"data set {path} is empty: it holds no rows")
    named = column or next((name for name in ("turns", "prompt", "text") if name in rows[0]), None)
    if named is None or named not in rows[0]:
        raise ToolkitError(
            f"data set {path} has no column {column or 'turns, prompt or text'}; it has "
            f"{', '.join(rows[0])}: write {path}:COLUMN"
        )
    values = [row.get(named) for row in rows]
    turns = [turn for v in values for turn in (v if isinstance(v, list) else [v])]
    strange = next((turn for turn in turns if not isinstance(turn, (str, type(None)))), None)
    if strange is not None:
        raise ToolkitError(
            f"column {named!r} of {path} holds {type(strange).__name__}, but prompts are text or lists "
            f"of text: name another column"
        )
    return Source([tuple(v) if isinstance(v, list) else (v or "",) for v in values], revision)


def read_text(file: Path) -> str:
    """Read a whole text. Raises `ToolkitError`."""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolkitError(f"text {file} cannot be read as UTF-8: {error}") from error


def repeat_text(text: str, tokens: int, prompts: int) -> Source:
    """As many equal prompts: a text, repeated to at least `tokens` tokens. Raises `ToolkitError`."""
    if not text:
        raise ToolkitError("the text is empty: give at least one character")
    text += "" if text[-1].isspace() else "\n"
    long = text * -(-CHARACTERS * tokens // len(text))
    return Source([(long,)] * prompts, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def column(name: str) -> Turns:
    """One turn per row: a column of text."""
    return lambda rows: [(row[name],) for row in rows]
