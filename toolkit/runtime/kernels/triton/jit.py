"""Triton where it is installed, whether a tensor's kernels run in it, and how launches overlap."""

from __future__ import annotations

import inspect
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from toolkit.runtime.machine.disk import say_once

try:
    import triton
    import triton.language as tl
    from triton import TritonError
except ImportError:  # PyTorch for CPUs comes without it
    triton = tl = None

    class TritonError(Exception):  # type: ignore[no-redef]
        """What Triton raises where a kernel cannot be compiled or loaded."""


__all__ = [
    "TritonError", "begin", "device_of", "jit", "overlap", "power_of_two", "runs", "tl", "version",
    "why_not",
]  # fmt: skip

version = getattr(triton, "__version__", None)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it at import, too


# A kernel is compiled anew for a number that is 1 or a multiple of 16, and for a pointer that is one of
# 16 bytes. These change with a pass or a slab, and kernels gain nothing from knowing it.
SIZES = ("rows", "tiles", "strides", "splits", "capacity", "blocks", "first", *"abcd")
POINTERS = ("length_ptr", "depths_ptr", "paths_ptr", "positions_ptr", "slots_ptr", "sources_ptr")

device_of = torch.cuda.device_of  # Triton launches on the current GPU, whichever a tensor is on


def jit(function: Any) -> Any:
    """A Triton kernel, or the function as it is where Triton is not installed."""
    if triton is None:
        return function
    named = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if "constexpr" not in str(parameter.annotation)
    }
    return triton.jit(
        function,
        do_not_specialize=[name for name in SIZES if name in named],
        do_not_specialize_on_alignment=[name for name in POINTERS if name in named],
    )


def runs(tensor: Tensor) -> bool:
    """Whether the kernels run for a tensor."""
    return why_not(tensor.device, tensor.dtype) is None


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels do not run for tensors there; None where they do."""
    if triton is None:
        return "Triton is not installed"
    if dtype is torch.float64:
        return "ours compute in float32"
    if INTERPRETED:
        return None
    return launch_failure(device) if device.type == "cuda" else "ours in Triton are for CUDA"


@jit
def probe(number_ptr):
    tl.store(number_ptr, 1.0)


@cache
def launch_failure(device: torch.device) -> str | None:
    """Why Triton cannot launch kernels there: it needs a C compiler, Python's headers and a driver.
    None where it can; else a warning says so once."""
    number = torch.zeros(1, device=device)
    try:
        with device_of(number):
            probe[(1,)](number)
    except Exception as error:  # noqa: BLE001 of many kinds
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        say_once("triton", f"Our kernels are not used on {device}: {why}")
        return why
    return None


@cache
def overlap(device: torch.device) -> dict[str, bool]:
    """How to launch a kernel so that it starts while the one before it ends (programmatic dependent
    launch), which GPUs have from Hopper on. Such a kernel calls `begin` before it reads or writes what
    others do."""
    if torch.version.cuda is None or device.type != "cuda":
        return {"overlaps": False}
    if torch.cuda.get_device_capability(device)[0] < 9:
        return {"overlaps": False}
    return {"overlaps": True, "launch_pdl": True}


@jit
def begin(overlaps: tl.constexpr):
    """Let the next kernel start, and wait until all kernels before this one have ended."""
    if overlaps:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


def power_of_two(size: int) -> int:
    """The least power of two that is `size` or more."""
    return 1 << (size - 1).bit_length()
