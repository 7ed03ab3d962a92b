"""One bench at a time in a folder: a lock that the system takes back when its holder ends, however."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from toolkit import ToolkitError

NAME = ".lock"


def require_free(folder: Path) -> None:
    """Raise `ToolkitError` while another process writes to a folder."""
    try:
        there = (folder / NAME).exists()
    except OSError:  # no name of a folder: who uses it says so
        return
    if there:
        with locked(folder):
            pass


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other benches out of a folder, which is made where it is not there.

    Raises `ToolkitError`: another process has it, or it cannot be written to.
    """
    file = folder / NAME
    lock = FileLock(file, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        file.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    except Timeout as error:
        raise ToolkitError(
            f"{_holder(file)} is writing to {folder}: wait until it is done, or name another folder "
            f"with --out"
        ) from error
    except OSError as error:
        lock.release()
        raise ToolkitError(
            f"results cannot be written to {folder} ({error.strerror}): name another with --out"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # only tidy: a file that stays behind locks nothing
            file.unlink()
        lock.release()


def _holder(file: Path) -> str:
    """The process that has the lock, as it wrote it there."""
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
