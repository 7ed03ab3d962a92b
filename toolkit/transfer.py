"""Transfer: how a step's data cross between host and device, several tensors in one copy.

A copy from the device waits for all work before it. So a step's data cross here and nowhere else, once
before a pass and once after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALIGNED = 8  # bytes at which a tensor may begin in a joined copy, whatever its dtype


def send(device: torch.device, *parts: Tensor) -> list[Tensor]:
    """Tensors of the host on a device, in one copy that nothing waits for. On the CPU they are `parts`
    themselves."""
    if device.type == "cpu":
        return list(parts)
    joined = _join(parts)
    if device.type == "cuda":
        joined = joined.pin_memory()
    return _split(joined.to(device, non_blocking=True), parts)


def fetch(*parts: Tensor) -> list[Tensor]:
    """Tensors of one device on the host, in one copy. On the CPU they are `parts` themselves."""
    if parts[0].device.type == "cpu":
        return list(parts)
    return _split(_join(parts).cpu(), parts)


def _join(parts: tuple[Tensor, ...]) -> Tensor:
    """One tensor of bytes; each part begins at a multiple of `ALIGNED`."""
    import torch
    from torch.nn.functional import pad

    raw = [part.contiguous().flatten().view(torch.uint8) for part in parts]
    padded = [pad(part, (0, -len(part) % ALIGNED)) if len(part) % ALIGNED else part for part in raw]
    return torch.cat(padded) if len(padded) > 1 else padded[0]


def _split(joined: Tensor, like: tuple[Tensor, ...]) -> list[Tensor]:
    """The parts of a joined tensor; `like` gives their shapes and dtypes."""
    found, first = [], 0
    for part in like:
        found.append(joined[first : first + part.nbytes].view(part.dtype).view(part.shape))
        first += part.nbytes + -part.nbytes % ALIGNED
    return found
