"""Triton where it is installed, and whether a tensor's kernels run in it."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch for CPUs comes without it
    triton = tl = None

__all__ = ["jit", "power_of_two", "runs", "tl"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it at import, too


def jit(function: Any) -> Any:
    """A Triton kernel, or the function as it is where Triton is not installed."""
    return function if triton is None else triton.jit(function)


def runs(tensor: Tensor) -> bool:
    """Whether the kernels run for a tensor: Triton is here, and it is on a GPU or interpreted."""
    return triton is not None and (tensor.is_cuda or INTERPRETED)


def power_of_two(size: int) -> int:
    """The least power of two that is `size` or more."""
    return 1 << (size - 1).bit_length()
