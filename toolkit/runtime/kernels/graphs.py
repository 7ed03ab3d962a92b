"""CUDA graphs: a sequence of kernel launches that is recorded once and replayed as one launch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import torch
from attrs import define, field
from torch import Tensor

from toolkit.runtime.kernels.triton.jit import TritonError

Thunk = Callable[[], Tensor]
WARM_UPS = 2  # runs before a recording, in which libraries load their kernels


class Recorder(Protocol):
    """Records what a function does to tensors."""

    def record(self, run: Thunk) -> tuple[Callable[[], None], Tensor]:
        """Run a function and record it. Returns what replays it, and its result.

        A replay reads and writes the tensors that the recording did, where these lie in memory, so
        whoever replays keeps alive those that the function did not make itself. Whatever else the
        function has read is what it was then.
        """

    def both(self, first: Thunk, second: Thunk) -> tuple[Tensor, Tensor]:
        """What two functions compute that do not depend on each other; in a replay they may run at the
        same time."""


@define(eq=False)
class CudaGraphs:
    """Records CUDA graphs that share memory for what they compute in between.

    PyTorch refuses a pool of memory whose graphs are all gone, so a graph takes the pool of one that
    lives, or a new one.
    """

    device: torch.device
    _graphs: WeakSet[Any] = field(init=False, factory=WeakSet)  # that live
    _broken: list[Any] = field(init=False, factory=list)  # PyTorch's allocator may still use them
    _stream: Any = field(init=False, default=None)  # one, since libraries keep memory for each
    _side: Any = field(init=False, default=None)

    def record(self, run: Thunk) -> tuple[Callable[[], None], Tensor]:
        """As `Recorder.record`. Raises `RuntimeError` for what cannot be compiled or captured."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        try:
            return self._capture(run)
        except TritonError as error:  # as where a kernel needs more shared memory than there is
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    def _capture(self, run: Thunk) -> tuple[Callable[[], None], Tensor]:
        stream, failure = self._stream, None
        living = next(iter(self._graphs), None)  # kept alive while this one is captured
        pool = torch.cuda.graph_pool_handle() if living is None else living.pool()
        # PyTorch stays on the capture's stream where ending the capture fails.
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream()):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(
                    graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                ):
                    try:
                        result = run()
                    except BaseException as error:
                        failure = error  # the error of ending the capture would hide it
                        raise
            except BaseException as error:
                if error is not failure:  # ending the capture failed
                    self._broken.append(graph)
                if failure is not None:
                    raise failure from None
                raise
        self._graphs.add(graph)
        return graph.replay, result

    def both(self, first: Thunk, second: Thunk) -> tuple[Tensor, Tensor]:
        """As `Recorder.both`: the second runs on a stream of its own, which waits for all that was
        launched before, so that memory can be used again."""
        if self._side is None:
            self._side = torch.cuda.Stream(self.device)
        main = torch.cuda.current_stream(self.device)
        self._side.wait_stream(main)
        try:
            one = first()
            with torch.cuda.stream(self._side):
                other = second()
        finally:  # a capture cannot end before its streams are joined
            main.wait_stream(self._side)
        return one, other


@define(eq=False)
class Recorded:
    """A function of one tensor, for up to R rows of it: a copy and a replay, where Python would launch
    kernels one by one."""

    given: Tensor  # [R, …], what the function reads
    replay: Callable[[], None]
    result: Tensor  # the next call overwrites it

    @classmethod
    def of(cls, recorder: Recorder, function: Callable[[Tensor], Tensor], first: Tensor) -> Recorded:
        """Record a function of tensors like `first`, on which recording runs it. Raises
        `RuntimeError` for what cannot be captured."""
        given = first.clone(memory_format=torch.contiguous_format)
        return cls(given, *recorder.record(partial(function, given)))

    def __call__(self, rows: Tensor) -> Tensor:
        """The result for `rows[≤ R, …]`; what it says of further rows means nothing."""
        self.given[: len(rows)].copy_(rows, non_blocking=True)
        self.replay()
        return self.result


def recorder_for(device: torch.device) -> Recorder | None:
    """What records on a device; None where nothing can."""
    return CudaGraphs(device) if device.type == "cuda" else None
