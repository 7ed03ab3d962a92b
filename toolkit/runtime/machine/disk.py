"""This user's cache folder: where it is, and checks that nobody else can write to it.

No failure is fatal. When there is no such folder, a temporary one is used, and one warning says so.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

OTHERS = stat.S_IWGRP | stat.S_IWOTH
WINDOWS = os.name == "nt"  # Windows protects a user's folders by itself

_log = logging.getLogger(__name__)
_said: dict[str, str] = {}


def say_once(about: str, line: str) -> None:
    """Log a warning unless this process has logged one about the same subject."""
    if about not in _said:
        _said[about] = line
        _log.warning(line)


def said(about: str) -> str | None:
    """The warning that this process has logged about a subject."""
    return _said.get(about)


def say_not_cached(error: Exception) -> None:
    """Warn once that nothing is cached, and why."""
    why = str(error)
    if isinstance(error, OSError) and error.strerror:
        why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    say_once("cache", f"Nothing is cached, each process compiles and measures anew: {why}")


def cache_folder(name: str) -> Path:
    """A folder in this user's cache. Nobody else can write to it, or to any folder above it.

    When there is no such folder, returns a temporary one and warns. Raises `OSError` when there is no
    temporary folder either.
    """
    try:
        folder = (user_cache_path("speculative-toolkit", appauthor=False) / name).resolve()
        _make(folder)
        require_own(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home, or links in a circle
        say_not_cached(error)
        return private_folder(name)
    return folder


@cache
def private_folder(name: str) -> Path:
    """A temporary folder of this process, removed at exit. Raises `OSError` when others can write to
    it."""
    folder = Path(tempfile.mkdtemp(prefix=f"speculative-toolkit-{name}-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    require_own(folder)
    return folder


def _make(folder: Path) -> None:
    """Make a folder and its parents for this user alone, in a folder that nobody else can replace."""
    if folder.is_dir():
        _require_safe(folder)
    else:
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def require_own(folder: Path) -> None:
    """Raise `PermissionError` unless a folder is this user's and only root can replace it.

    The path must be resolved: absolute and without symbolic links.
    """
    _require_safe(folder, own=True)
    for place in folder.parents:
        _require_safe(place)


def _require_safe(place: Path, own: bool = False) -> None:
    """Raise `PermissionError` when another user can replace our files in a folder.

    They are safe in a sticky folder, such as /tmp. With `own`, also raise when another user owns the
    folder or can create files in it.
    """
    if WINDOWS:
        return
    said = place.stat()
    if said.st_uid != os.geteuid() and (own or said.st_uid != 0):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(place))
    if said.st_mode & OTHERS and (own or not said.st_mode & stat.S_ISVTX):
        why = "others can write to it, and the toolkit runs code from its cache; chmod go-w mends that"
        raise PermissionError(errno.EPERM, why, str(place))


def is_own_file(file: Path) -> bool:
    """Whether a path is a regular file of this user, not a link, that nobody else can write to."""
    try:
        said = file.lstat()
    except OSError:
        return False
    ours = WINDOWS or (said.st_uid == os.geteuid() and not said.st_mode & OTHERS)
    return stat.S_ISREG(said.st_mode) and ours
