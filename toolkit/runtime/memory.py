"""How much memory was held at most."""

from __future__ import annotations

import sys

import torch


def forget_peak(device: torch.device) -> None:
    """Start measuring anew, where that is possible: on CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the most that CUDA held since `forget_peak`, or that the process ever held; None where
    unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
