"""Transfer: how a step's data cross between host and device, several tensors in one copy.

A copy from the device waits for all work before it. So a step's data cross here and nowhere else, once
before a pass and once after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALIGNED = 8  # bytes at which a tensor may begin in a joined copy, whatever its dtype


def send(device: torch.device, *parts: Tensor) -> list[Tensor]:
    """Tensors of the host on a device, in one copy that nothing waits for. On the CPU they are `parts`
    themselves."""
    if device.type == "cpu":
        return list(parts)
    return _split(_pinned(_join(parts), device).to(device, non_blocking=True), parts)


def write(source: Tensor, target: Tensor) -> None:
    """Copy a tensor of the host into one of a device. Nothing waits for it."""
    target.copy_(_pinned(source, target.device), non_blocking=True)


def fetch(*parts: Tensor) -> list[Tensor]:
    """Tensors of one device on the host, in one copy, for which alone it waits. From CUDA the copy is
    pinned, which PyTorch keeps to use again. On the CPU they are `parts` themselves."""
    device = parts[0].device
    if device.type == "cpu":
        return list(parts)
    joined = _join(parts)
    if device.type != "cuda":
        return _split(joined.cpu(), parts)
    import torch

    host = torch.empty_like(joined, device="cpu", pin_memory=True)
    host.copy_(joined, non_blocking=True)
    torch.cuda.current_stream(device).synchronize()
    return _split(host, parts)


@frozen(eq=False)
class Slot:
    """A place on the host for what a device finds, which is read later than it is asked for."""

    host: Tensor  # pinned
    device: torch.device
    events: tuple[Any, Any] | None  # when the device began, and when all was here; None on the CPU

    @classmethod
    def like(cls, found: Tensor) -> Slot:
        """A place for tensors like this one."""
        import torch

        if found.device.type != "cuda":
            return cls(torch.empty_like(found, device="cpu"), found.device, None)
        events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        return cls(torch.empty_like(found, device="cpu", pin_memory=True), found.device, events)

    def ask(self, work: Callable[[], None], found: Tensor) -> None:
        """Have the device do `work`, and copy `found` here. Nothing waits for it."""
        if self.events is None:
            work()
            self.host.copy_(found)
            return
        import torch

        began, ended = self.events
        stream = torch.cuda.current_stream(self.device)
        began.record(stream)
        work()
        self.host.copy_(found, non_blocking=True)
        ended.record(stream)

    def fetch(self) -> Tensor:
        """What was found last; waits for it. The next `ask` overwrites it."""
        if self.events is not None:
            self.events[1].synchronize()
        return self.host

    @property
    def device_ms(self) -> float:
        """How long the device took for what was fetched; 0 on the CPU, whose work nobody waits for."""
        if self.events is None:
            return 0.0
        began, ended = self.events
        return float(began.elapsed_time(ended))


def _pinned(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host where CUDA can copy it from while the host goes on."""
    return host.pin_memory() if device.type == "cuda" else host


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
