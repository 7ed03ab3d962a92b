"""cuDNN's attention, kept out of our passes.

It builds a plan for every new count of rows and of keys: 40 to 65 ms of host time each on an H200 with
PyTorch 2.11, and nearly every pass has new counts. PyTorch's other kernels need none.
"""

from __future__ import annotations

from threading import Lock
from types import TracebackType

import torch
from attrs import define, field


@define(eq=False)
class WithoutCudnn:
    """PyTorch has one switch for the whole process: the first pass that begins turns it off, and the
    last one that ends turns it back to what it was, whichever threads they run in."""

    _lock: Lock = field(init=False, factory=Lock)
    _passes: int = field(init=False, default=0)  # that are running
    _before: bool = field(init=False, default=True)

    def __enter__(self) -> None:
        with self._lock:
            if self._passes == 0:
                self._before = torch.backends.cuda.cudnn_sdp_enabled()
                torch.backends.cuda.enable_cudnn_sdp(False)
            self._passes += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._passes -= 1
            if self._passes == 0:
                torch.backends.cuda.enable_cudnn_sdp(self._before)


without_cudnn = WithoutCudnn()
