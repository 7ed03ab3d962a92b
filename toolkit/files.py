"""Files that are whole or not there, and paths that people type."""

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

    So whoever reads `path` finds it whole, as it was or as it is, whenever this stops and whoever else
    writes it. `mode` is the new file's, less the umask. Without `sync` it is not forced to disk
    first, which is faster and less safe when the machine crashes. Raises `OSError`.
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
    """Whether a folder has this path. A text that cannot be a path is no folder."""
    try:
        return Path(text).is_dir()
    except OSError:
        return False
