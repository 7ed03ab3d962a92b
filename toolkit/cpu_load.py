"""What other processes use of the CPU.

Linux counts the CPU time of all processes; without this process's own it is that of the others. Time
that a hypervisor took from a virtual machine counts as theirs, too. Where nothing is counted, the load
average is a rough substitute.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter, process_time

from attrs import frozen

COUNTED = Path("/proc/stat")
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; not idle, not iowait
BUSY = 0.2  # of all cores, beyond those that our threads leave idle


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
    average = load_average()
    return max(0.0, average - own) if average else None  # 0: nothing is counted, because we ran


def busy_load(began: Moment) -> float | None:
    """The share of the CPU that other processes have used since `began`, if they took cores from
    PyTorch's threads for so long that times measured meanwhile may mislead; else None."""
    import torch

    load = measure_load(began, Moment.now())
    idle = max(0.0, 1 - torch.get_num_threads() / (os.cpu_count() or 1))
    return load if load is not None and load > idle + BUSY else None


def describe_load(load: float) -> str:
    """A load in words."""
    return f"other processes used {load:.0%} of the CPU"


def _cpu_seconds() -> float | None:
    """CPU seconds that all processes have used since the system started."""
    try:
        with COUNTED.open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:]]
        return sum(ticks[field] for field in BUSY_FIELDS) / os.sysconf("SC_CLK_TCK") or None
    except (OSError, ValueError, IndexError):
        return None


def load_average() -> float | None:
    """Processes that ran or waited to run, per CPU, over the last minute; None: unknown."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # no such call on Windows
        return None
