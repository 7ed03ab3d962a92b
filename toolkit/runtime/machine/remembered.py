"""Results about this machine, such as which kernel is fastest, remembered on disk between processes.

What was timed while the machine was busy holds for one process only. So does what cannot be written: no
failure is fatal. Then each process finds the result out again, and one warning says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.cpu_load import describe_load
from toolkit.files import open_atomically
from toolkit.progress import working
from toolkit.runtime.machine.cpu import cpu_flags, cpu_model
from toolkit.runtime.machine.disk import cache_folder, say_not_cached, say_once

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # instruction sets for oneDNN; it reads both
RUNTIME = Path(__file__).parent.parent
TRIES = 3  # for a result of a quiet machine: what lasts for a moment alone does not count
_of_this_process: dict[tuple[str, str], Any] = {}  # results that are not on disk


@cache
def sources() -> str:
    """A hash of the runtime's source files. Results hold for the code that they were measured with."""
    total = hashlib.sha256()
    for file in sorted(RUNTIME.rglob("*.*")):
        if file.suffix in (".py", ".c", ".h"):
            total.update(file.read_bytes())
    return total.hexdigest()


def here() -> list[str]:
    """What a result depends on: our code, the CPU, PyTorch, its and oneDNN's limits, the threads."""
    import torch

    return [
        sources(), cpu_model(), " ".join(sorted(cpu_flags())), torch.__version__,
        torch.backends.cpu.get_cpu_capability(), *(os.environ.get(name, "") for name in LIMITS),
        str(torch.get_num_threads()),
    ]  # fmt: skip


def key_of(*about: str) -> str:
    """The key of a result about these things on this machine: 32 hex digits."""
    return hashlib.sha256("\0".join([*here(), *about]).encode()).hexdigest()[:32]


def remembered(
    about: Sequence[str],
    find_out: Callable[[], dict[str, Any]],
    what: str = "Looking at this machine (once)",
) -> dict[str, Any]:
    """The result of `find_out`, remembered under `about` and `here()`.

    The progress line shows `what` while `find_out` runs. A result with a `busy_load` is found out
    again; what has one after `TRIES` is remembered for this process only.
    """
    key = key_of(*about)
    found: dict[str, Any] = recall("checks", key)
    if found is None:
        with working(what):
            for _ in range(TRIES):
                found = find_out()
                if found.get("busy_load") is None:
                    break
        if found.get("busy_load") is None:
            remember("checks", key, found)
        else:
            _of_this_process["checks", key] = found
            say_busy(describe_load(found["busy_load"]))
    return found


def say_busy(why: str) -> None:
    """Warn once that this process measured a busy machine, and how that showed."""
    say_once(
        "busy",
        f"The machine was busy while it was measured ({why}): do not rely on speeds of this run; the "
        f"next one measures again.",
    )


def remember(kind: str, key: str, found: Any) -> None:
    """Write a result as JSON for later processes. If that fails, keep it for this process."""
    data = json.dumps({"sha256": _checksum(found), "found": found}).encode()
    try:
        with open_atomically(cache_folder(kind) / f"{key}.json", mode=0o600) as file:
            file.write(data)
    except OSError as error:
        _of_this_process[kind, key] = found
        say_not_cached(error)


def recall(kind: str, key: str) -> Any:
    """The result that `remember` wrote; None when there is none, or when the file is damaged."""
    try:
        said = json.loads((cache_folder(kind) / f"{key}.json").read_bytes())
        if said["sha256"] == _checksum(said["found"]):
            return said["found"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return _of_this_process.get((kind, key))


def _checksum(found: Any) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
