"""The CPU's model and instruction sets, and the GPU's driver."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path


@cache
def _stated() -> dict[str, str]:
    """The fields of the last CPU in /proc/cpuinfo; empty without /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in said.items()}


@cache
def _sysctl(name: str) -> str:
    """A field of the CPU on macOS; empty elsewhere, and where it is unknown, as `features` on ARM."""
    command = ["/usr/sbin/sysctl", "-n", f"machdep.cpu.{name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def cpu_model() -> str:
    """The CPU's model. Where the system does not state it, the architecture and part number."""
    named = _stated().get("model name") or _sysctl("brand_string")
    part = " ".join(_stated().get(f"CPU {key}", "") for key in ("implementer", "part"))
    return named or f"{platform.machine()} {part}".strip() or platform.processor()


def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets by their Linux names, whatever limits are set for libraries."""
    linux = _stated().get("flags") or _stated().get("Features")
    said = linux or f"{_sysctl('features')} {_sysctl('leaf7_features')}".lower()
    return frozenset(said.split())


def gpu_driver() -> str | None:
    """The version of NVIDIA's driver, as Linux tells it; None: unknown."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
