"""One bench at a time in a folder: a lock that ends with its process, even a killed one."""

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
    except OSError:  # not a valid name: its user says so
        return
    if there:
        with hold_lock(folder):
            pass


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if necessary.

    Raises `ToolkitError` when another process holds it, or when the folder cannot be written to.
    """
    file = folder / NAME
    lock = FileLock(file, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        file.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    except Timeout as error:
        raise ToolkitError(
            f"{_holder(file)} is writing to {folder}: wait until it has finished, or name another "
            f"folder with --out"
        ) from error
    except OSError as error:
        lock.release()
        raise ToolkitError(
            f"results cannot be written to {folder} ({error.strerror}): name another with --out"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # a file that stays behind locks nothing
            file.unlink()
        lock.release()


def _holder(file: Path) -> str:
    """The process that holds the lock, as it wrote into the file."""
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
