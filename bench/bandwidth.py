"""How fast this machine reads memory: the limit that decoding one token at a time runs into."""

from __future__ import annotations

from time import perf_counter

import torch

BYTES = 1 << 28  # well beyond any cache
ROUNDS = 5


def measured(device: torch.device) -> float:
    """Bytes per second, the best of a few passes that read a large buffer once."""
    buffer = torch.ones(BYTES // 4, dtype=torch.float32, device=device)
    best = 0.0
    for _ in range(ROUNDS):
        began = perf_counter()
        float(buffer.sum())  # on CUDA the float waits for the device
        best = max(best, BYTES / (perf_counter() - began))
    return best
