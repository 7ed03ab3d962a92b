"""This machine: its CPU, and what was found out about it."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.progress import working
from toolkit.runtime.disk import keep, kept

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # what oneDNN may use; it reads both


@cache
def _stated() -> dict[str, str]:
    """What the system states of its last CPU; nothing where it has no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in said.items()}


@cache
def _sysctl(name: str) -> str:
    """What macOS says of its CPU; nothing elsewhere, and where it does not know, as features on ARM."""
    command = ["/usr/sbin/sysctl", "-n", f"machdep.cpu.{name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def cpu_model() -> str:
    """The CPU's model; where the system does not say it, the architecture and what else it says."""
    named = _stated().get("model name") or _sysctl("brand_string")
    part = " ".join(_stated().get(f"CPU {key}", "") for key in ("implementer", "part"))
    return named or f"{platform.machine()} {part}".strip() or platform.processor()


def cpu_flags() -> frozenset[str]:
    """The instruction sets that the CPU has, as Linux calls them, whatever libraries were told."""
    linux = _stated().get("flags") or _stated().get("Features")
    said = linux or f"{_sysctl('features')} {_sysctl('leaf7_features')}".lower()
    return frozenset(said.split())


@cache
def sources() -> str:
    """A hash of the runtime's own code: what was found out about other code is found out anew."""
    total = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.*")):
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
