"""Switches cuDNN's attention off during passes.

cuDNN builds a plan for every new count of rows and keys. That takes 40 to 65 ms of host time on an H200
with PyTorch 2.11, and nearly every pass has new counts. PyTorch's other kernels need no plans.
"""

from __future__ import annotations

from threading import Lock
from types import TracebackType

import torch
from attrs import define, field


@define(eq=False)
class WithoutCudnn:
    """A context manager for passes, in any number of threads.

    PyTorch has one switch for the whole process. The first pass to begin turns it off, and the last one
    to end restores it.
    """

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
