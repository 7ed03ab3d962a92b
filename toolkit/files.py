"""Atomic writes, and paths given by users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO


@contextmanager
def open_atomically(path: Path, *, mode: int = 0o666, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that replaces it when the block ends without an exception.

    A reader finds the old file or the new one, always whole, even if this process is killed or another
    one writes the same file. `mode` is the new file's, less the umask. Without `sync` the data are not
    flushed to disk first: faster, but a crash of the machine may lose the file. Raises `OSError`.
    """
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path.parent)) from error
    finally:
        with suppress(OSError):
            part.unlink()


def is_folder(text: str) -> bool:
    """Whether a text is the path of a folder; False for a text that cannot be a path."""
    try:
        return Path(text).is_dir()
    except OSError:
        return False
