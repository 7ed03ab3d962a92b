"""How fast this machine reads memory: the limit that decoding one token at a time runs into."""

from __future__ import annotations

from time import perf_counter

import torch

BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}  # beyond any cache; on a GPU, long beside a launch
ROUNDS = 40  # about a second on a CPU: something else may have the memory for a while


def measured(device: torch.device) -> float:
    """Bytes per second, the best of a few passes that read a large buffer once."""
    count = BYTES[device.type]
    buffer = torch.ones(count // 4, dtype=torch.float32, device=device)
    float(buffer.sum())  # the first pass sets things up
    best = 0.0
    for _ in range(ROUNDS):
        began = perf_counter()
        float(buffer.sum())  # on CUDA the float waits for the device
        best = max(best, count / (perf_counter() - began))
    return best
