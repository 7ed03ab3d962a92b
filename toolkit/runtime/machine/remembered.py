"""What was found out about this machine, kept on disk from one process to the next.

Nothing here is fatal. A result that cannot be written is found out anew by each process, and one line
says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.files import open_atomically
from toolkit.progress import working
from toolkit.runtime.machine.cpu import cpu_flags, cpu_model
from toolkit.runtime.machine.disk import cache_folder, say_not_cached

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # what oneDNN may use; it reads both
RUNTIME = Path(__file__).parent.parent
_unwritten: dict[tuple[str, str], Any] = {}  # results of this process that could not be written


@cache
def sources() -> str:
    """A hash of the runtime's own code: what was found out about other code is found out anew."""
    total = hashlib.sha256()
    for file in sorted(RUNTIME.rglob("*.*")):
        if file.suffix in (".py", ".c", ".h"):
            total.update(file.read_bytes())
    return total.hexdigest()


def here() -> list[str]:
    """What anything that is found out here holds for: our code, the CPU, PyTorch and what it and
    oneDNN may use of the CPU, and the count of threads."""
    import torch

    return [
        sources(), cpu_model(), " ".join(sorted(cpu_flags())), torch.__version__,
        torch.backends.cpu.get_cpu_capability(), *(os.environ.get(name, "") for name in LIMITS),
        str(torch.get_num_threads()),
    ]  # fmt: skip


def key_of(*about: str) -> str:
    """A name for what was found out here about these things."""
    return hashlib.sha256("\0".join([*here(), *about]).encode()).hexdigest()[:32]


def remembered(
    about: Sequence[str],
    find_out: Callable[[], dict[str, Any]],
    what: str = "Looking at this machine (once)",
) -> dict[str, Any]:
    """What `find_out` says of `about` on this machine, kept on disk; `what` is shown meanwhile."""
    key = key_of(*about)
    found: dict[str, Any] | None = recall("checks", key)
    if found is None:
        with working(what):
            found = find_out()
        remember("checks", key, found)
    return found


def remember(kind: str, key: str, found: Any) -> None:
    """Keep a result as JSON for later processes; where that fails, for this one."""
    data = json.dumps({"sha256": _checksum(found), "found": found}).encode()
    try:
        with open_atomically(cache_folder(kind) / f"{key}.json", mode=0o600) as file:
            file.write(data)
    except OSError as error:
        _unwritten[kind, key] = found
        say_not_cached(error)


def recall(kind: str, key: str) -> Any:
    """What `remember` kept; None where there is nothing, or something that it did not write."""
    try:
        said = json.loads((cache_folder(kind) / f"{key}.json").read_bytes())
        if said["sha256"] == _checksum(said["found"]):
            return said["found"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return _unwritten.get((kind, key))


def _checksum(found: Any) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
