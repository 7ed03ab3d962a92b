"""This machine: its CPU's name, and where results about it are kept."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def _stated() -> dict[str, str]:
    """What the system states of its last CPU; nothing where it has no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in said.items()}


def cpu_model() -> str:
    """The CPU's model, or else its architecture."""
    return _stated().get("model name") or platform.processor() or platform.machine()


def cpu_name() -> str:
    """The CPU's model and the instruction sets it states."""
    return f"{cpu_model()} {_stated().get('flags', '')}"


def cache_folder(name: str) -> Path:
    """A folder of the user's cache, made when it is not there; a temporary one if it cannot be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "speculative-toolkit" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _temporary(name)
    return folder if os.access(folder, os.W_OK) else _temporary(name)


@cache
def _temporary(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"speculative-toolkit-{name}-"))


@cache
def sources() -> str:
    """A hash of the runtime's own code: what was found out about other code is found out anew."""
    total = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.*")):
        if file.suffix in (".py", ".c", ".h"):
            total.update(file.read_bytes())
    return total.hexdigest()


def remembered(about: Sequence[str], find_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `find_out` says about this machine, PyTorch, thread count and `about`; kept on disk."""
    here = [sources(), cpu_name(), torch.__version__, str(torch.get_num_threads()), *about]
    key = hashlib.sha256("\0".join(here).encode()).hexdigest()[:32]
    file = cache_folder("checks") / f"{key}.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = find_out()
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(file)
    return found
