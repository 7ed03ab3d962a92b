"""How much memory was held at most, and memory in large pages."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

PAGE = 1 << 21  # bytes of a large page
ADVICE = 14  # MADV_HUGEPAGE


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


def in_large_pages(tensor: Tensor) -> Tensor:
    """A contiguous copy of a CPU tensor, in large pages where Linux gives them: reading weights then
    waits less for addresses."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    first = -(-copy.data_ptr() // PAGE) * PAGE
    size = (copy.data_ptr() + copy.nbytes - first) // PAGE * PAGE
    if size > 0 and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), ADVICE)  # as ever: advice
    return copy.copy_(tensor)
