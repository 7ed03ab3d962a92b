"""The machine that a bench runs on: a description, memory bandwidth, and what other processes use.

Linux counts the CPU time of all processes; without this process's own it is that of the others. Time
that a hypervisor took from a virtual machine counts as theirs, too. Where nothing is counted, the load
average is a rough substitute.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    import torch

BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}  # larger than any cache; on a GPU, longer than a launch
PASSES = 40  # about a second on a CPU: another process may use the memory for a while
COUNTED = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; not idle, not iowait


def describe_machine(run: Mapping[str, Any]) -> str:
    """CPU, threads and instruction sets of a row of `runs`, in words."""
    cpu, device = run["cpu"], run["device"]
    place = cpu if device == "cpu" else f"{device}, on the host {cpu}"
    ours = f"{run['isa']} in our kernels" if run["isa"] else "none of our kernels"
    return (
        f"{place}, CPU threads: {run['threads']}, instruction set: {ours}, {run['torch_isa']} in "
        f"PyTorch"
    )


def measure_bandwidth(device: torch.device) -> float:
    """Memory bandwidth in bytes per second: the fastest of several reads of a large buffer.

    It limits AR, which reads every weight once per token.
    """
    import torch

    count = BYTES[device.type]
    buffer = torch.ones(count // 4, dtype=torch.float32, device=device)
    float(buffer.sum())  # the first pass initialises the device
    best = 0.0
    for _ in range(PASSES):
        began = perf_counter()
        float(buffer.sum())  # on CUDA the float waits for the device
        best = max(best, count / (perf_counter() - began))
    return best


@frozen
class Moment:
    """A point in time, and the CPU seconds used until then."""

    at: float
    own: float  # by this process
    everyone: float | None  # by all processes on all cores; None where they are not counted

    @classmethod
    def now(cls) -> Moment:
        return cls(perf_counter(), process_time(), _cpu_seconds())


def measure_load(began: Moment, ended: Moment) -> float | None:
    """The share of all cores' time that other processes used between two moments.

    The counters have steps of 10 ms, so over a short time the result can be slightly below 0 or above
    1. None: not known.
    """
    cores, time = os.cpu_count() or 1, ended.at - began.at
    own = (ended.own - began.own) / (cores * time)
    if began.everyone is not None and ended.everyone is not None:
        return (ended.everyone - began.everyone) / (cores * time) - own
    average = _load_average()
    return None if average is None else max(0.0, average / cores - own)


def _cpu_seconds() -> float | None:
    """CPU seconds that all processes have used since the system started."""
    try:
        with COUNTED.open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:]]
        return sum(ticks[field] for field in BUSY) / os.sysconf("SC_CLK_TCK") or None
    except (OSError, ValueError, IndexError):
        return None


def _load_average() -> float | None:
    """Processes that ran or waited to run, averaged over the last minute."""
    try:
        return os.getloadavg()[0] or None  # 0 beside a running bench: nothing is counted
    except (AttributeError, OSError):
        return None
