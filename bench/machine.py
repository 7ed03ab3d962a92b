"""The machine that a bench runs on: a description, and its memory bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}  # larger than any cache; on a GPU, longer than a launch
PASSES = 40  # about a second on a CPU: another process may use the memory for a while


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
