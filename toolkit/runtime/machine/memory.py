"""Peak memory, the error where a device has none left, and tensors in large pages."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from toolkit.errors import NoMemoryError
from toolkit.strategy_errors import find_failed_method

PAGE = 1 << 21  # bytes of a large page
ADVICE = 14  # MADV_HUGEPAGE
LESS_FOR_WEIGHTS = "a lower precision (--dtype bf16), a smaller model, or --device cpu"
LESS_FOR_REQUESTS = (
    "a shorter prompt, fewer nodes, a KV policy with a budget, or a lower precision"
)


@contextmanager
def name_lack_of_memory(device: torch.device, task: str, less: str) -> Iterator[None]:
    """Turn PyTorch's `OutOfMemoryError` in the block into a `NoMemoryError` that names the task, and
    what needs less memory. One of a plugin's strategy stays, for `name_failed_strategy`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        if find_failed_method(error) is not None:
            raise
        raise NoMemoryError(f"{device} has no memory left {task}: use {less}") from error


def forget_peaks() -> None:
    """Reset the peak of every GPU's memory. On CPU the peak cannot be reset."""
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def peak_memory(devices: Iterable[torch.device]) -> int | None:
    """Peak memory in bytes: the sum over the GPUs among `devices` since `forget_peaks`; where there is
    none, that of the process since its start.

    None where it is unknown.
    """
    gpus = {device for device in devices if device.type == "cuda"}
    if gpus:
        return sum(map(torch.cuda.max_memory_allocated, gpus))
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
