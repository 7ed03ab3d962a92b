"""What was found out about this machine, kept on disk from one process to the next."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.progress import working
from toolkit.runtime.machine.cpu import cpu_flags, cpu_model
from toolkit.runtime.machine.disk import keep, kept

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # what oneDNN may use; it reads both
RUNTIME = Path(__file__).parent.parent


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


def remembered(
    about: Sequence[str],
    find_out: Callable[[], dict[str, Any]],
    what: str = "Looking at this machine (once)",
) -> dict[str, Any]:
    """What `find_out` says of `about` on this machine, kept on disk; `what` is shown meanwhile."""
    key = hashlib.sha256("\0".join([*here(), *about]).encode()).hexdigest()[:32]
    found: dict[str, Any] | None = kept("checks", key)
    if found is None:
        with working(what):
            found = find_out()
        keep("checks", key, found)
    return found
