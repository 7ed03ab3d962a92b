"""The user's cache on disk: whose it is, files that are whole or not there, and small results.

Nothing here is fatal. What cannot be kept is found out anew by each process, and one line says so.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

OTHERS = stat.S_IWGRP | stat.S_IWOTH
WINDOWS = os.name == "nt"  # keeps others out of a user's folders by itself

_log = logging.getLogger(__name__)
_said: set[str] = set()
_unkept: dict[tuple[str, str], Any] = {}  # what this process found out and could not write


def say_once(about: str, line: str) -> None:
    """Log a warning, the first about its subject in this process; it goes to stderr unless the
    process has set up logging."""
    if about not in _said:
        _said.add(about)
        _log.warning(line)


def say_not_cached(error: Exception) -> None:
    """Say once that each process starts anew, and why."""
    why = str(error)
    if isinstance(error, OSError) and error.strerror:
        why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    say_once("cache", f"Nothing is cached, each process compiles and measures anew: {why}")


def cache_folder(name: str) -> Path:
    """A folder of this user's cache that nobody else can write to, or to any folder above it.

    Where there is none, a temporary folder of this process, and one line says why. Raises `OSError`
    when there is no such temporary folder either.
    """
    try:
        folder = (_base() / "speculative-toolkit" / name).resolve()
        _make(folder)
        require_own(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home, or links in a circle
        say_not_cached(error)
        return private_folder(name)
    return folder


@cache
def private_folder(name: str) -> Path:
    """A temporary folder of this process, removed when it ends. Raises `OSError` when others can
    write there, too."""
    folder = Path(tempfile.mkdtemp(prefix=f"speculative-toolkit-{name}-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    require_own(folder)
    return folder


def _base() -> Path:
    """Where users keep caches: XDG_CACHE_HOME if it is absolute, as its specification says."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = named if named.is_absolute() else Path.home() / ".cache"
    if not base.is_absolute():
        raise FileNotFoundError(errno.ENOENT, "the home folder is not absolute", str(base))
    return base


def _make(folder: Path) -> None:
    """Make a folder and those above it for this user alone, in one that nobody else can replace."""
    if folder.is_dir():
        _require_safe(folder)
    else:
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def require_own(folder: Path) -> None:
    """Raise `PermissionError` unless a folder is this user's and nobody else but root can change what
    lies at its path. The path must be resolved: absolute and without symbolic links."""
    _require_safe(folder, own=True)
    for place in folder.parents:
        _require_safe(place)


def _require_safe(place: Path, own: bool = False) -> None:
    """Raise `PermissionError` when another user can replace what is ours in a folder: what is in a
    sticky one, such as /tmp, is safe. With `own`, when another can put anything there, or owns it."""
    if WINDOWS:
        return
    said = place.stat()
    if said.st_uid != os.geteuid() and (own or said.st_uid != 0):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(place))
    if said.st_mode & OTHERS and (own or not said.st_mode & stat.S_ISVTX):
        why = "others can write to it, chmod go-w mends that"
        raise PermissionError(errno.EPERM, why, str(place))


def is_own_file(file: Path) -> bool:
    """Whether a path is a regular file, no link, of this user, that nobody else can write to."""
    try:
        said = file.lstat()
    except OSError:
        return False
    ours = WINDOWS or (said.st_uid == os.geteuid() and not said.st_mode & OTHERS)
    return stat.S_ISREG(said.st_mode) and ours


def write_whole(file: Path, data: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write a file that is whole or not there, whenever this stops and whoever else writes it.

    `check` is called with a path that holds the data before the file gets its name; when it raises,
    nothing is left. Raises `OSError`.
    """
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(handle)
            if check is not None:
                check(part)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file.parent)) from error


def keep(kind: str, key: str, found: Any) -> None:
    """Keep what was found out, as JSON, for the processes that come after; else for this one."""
    data = json.dumps({"sha256": _checksum(found), "found": found}).encode()
    try:
        write_whole(cache_folder(kind) / f"{key}.json", data)
    except OSError as error:
        _unkept[kind, key] = found
        say_not_cached(error)


def kept(kind: str, key: str) -> Any:
    """What `keep` kept; None where there is nothing, or something that it did not write."""
    try:
        said = json.loads((cache_folder(kind) / f"{key}.json").read_bytes())
        if said["sha256"] == _checksum(said["found"]):
            return said["found"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return _unkept.get((kind, key))


def _checksum(found: Any) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
