"""What other processes take of the CPU while something is measured.

Linux counts the CPU time of all processes; what is left of it without this process's own is others'.
Time that a host took from a virtual machine counts as others', too. Where nothing is counted, the
load average says roughly the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter, process_time

from attrs import frozen

COUNTED = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; not idle, not iowait


@frozen
class Moment:
    """A point in time, and the CPU seconds used until then."""

    at: float
    own: float  # by this process
    everyone: float | None  # by all processes on all cores; None where they are not counted

    @classmethod
    def now(cls) -> Moment:
        return cls(perf_counter(), process_time(), _everyone())


def load(began: Moment, ended: Moment) -> float | None:
    """The share of all cores' time that other processes used between two moments.

    The system counts in hundredths of a second, so over a short time it can come out a little below
    0 or above. None: not known.
    """
    cores, time = os.cpu_count() or 1, ended.at - began.at
    own = (ended.own - began.own) / (cores * time)
    if began.everyone is not None and ended.everyone is not None:
        return (ended.everyone - began.everyone) / (cores * time) - own
    average = _load_average()
    return None if average is None else max(0.0, average / cores - own)


def _everyone() -> float | None:
    """CPU seconds that all processes have used since the start of the system."""
    try:
        with COUNTED.open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:]]
        return sum(ticks[field] for field in BUSY) / os.sysconf("SC_CLK_TCK") or None
    except (OSError, ValueError, IndexError):
        return None


def _load_average() -> float | None:
    """Processes that ran or waited to, over the last minute."""
    try:
        return os.getloadavg()[0] or None  # 0 beside a bench: nobody counts
    except (AttributeError, OSError):
        return None
