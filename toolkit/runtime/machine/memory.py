"""Peak memory, and tensors in large pages."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

PAGE = 1 << 21  # bytes of a large page
ADVICE = 14  # MADV_HUGEPAGE


def forget_peak(device: torch.device) -> None:
    """Reset the peak of CUDA memory. On CPU the peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: of CUDA since `forget_peak`, else of the process since its start.

    None where it is unknown.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def in_large_pages(tensor: Tensor) -> Tensor:
    """A contiguous copy of a CPU tensor, in large pages where Linux has them.

    Large pages cost fewer TLB misses when weights are read.
    """
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    first = -(-copy.data_ptr() // PAGE) * PAGE
    size = (copy.data_ptr() + copy.nbytes - first) // PAGE * PAGE
    if size > 0 and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), ADVICE)  # Linux may ignore it
    return copy.copy_(tensor)
