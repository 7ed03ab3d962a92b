"""How CUDA graphs are recorded, with a mock in the place of `torch.cuda`."""

from contextlib import nullcontext
from unittest.mock import MagicMock
from weakref import ref

import pytest
import torch

from toolkit.runtime.kernels import graphs
from toolkit.runtime.kernels.graphs import CudaGraphs
from toolkit.runtime.kernels.triton.jit import TritonError


@pytest.fixture
def cuda(monkeypatch):
    mock = MagicMock()
    mock.device.return_value.__exit__.return_value = False
    mock.stream.return_value.__exit__.return_value = False
    monkeypatch.setattr(graphs.torch, "cuda", mock)
    return mock


def test_all_recordings_share_a_stream(cuda):
    """A library's workspace, such as cuBLAS's of 32 MiB, is kept for each stream."""
    recorder, ones = CudaGraphs(torch.device("cuda")), torch.ones(1)
    for _ in range(3):
        assert recorder.record(lambda: ones)[1] is ones
    assert (cuda.Stream.call_count, cuda.CUDAGraph.call_count) == (1, 3)
    assert {call.kwargs["stream"] for call in cuda.graph.call_args_list} == {cuda.Stream()}


def test_a_pool_lives_as_long_as_its_graphs(cuda):
    """PyTorch fails for a pool that once had graphs and has none any more."""
    used = {}  # graphs that live, by pool

    class Graph:
        def __init__(self):
            self.counted = ref(self)  # which is gone before `self` is

        def pool(self):
            return next(pool for pool, graphs in used.items() if self.counted in graphs)

        def replay(self):
            pass

    def capture(graph, *, pool, **_):
        assert pool not in used or any(living() for living in used[pool])
        used.setdefault(pool, []).append(graph.counted)
        return nullcontext()

    cuda.CUDAGraph, cuda.graph, cuda.graph_pool_handle = Graph, capture, object
    recorder = CudaGraphs(torch.device("cuda"))
    first, second = (recorder.record(lambda: None)[0] for _ in range(2))
    assert [len(graphs) for graphs in used.values()] == [2]
    del first
    third, _ = recorder.record(lambda: None)
    assert [len(graphs) for graphs in used.values()] == [3]
    del second, third
    recorder.record(lambda: None)
    assert [len(graphs) for graphs in used.values()] == [3, 1]


def test_what_triton_cannot_compile_cannot_be_captured(cuda):
    """So callers, which expect a `RuntimeError`, go on without the graph."""

    def run():
        raise TritonError("out of resource: shared memory")

    with pytest.raises(RuntimeError, match="TritonError: out of resource"):
        CudaGraphs(torch.device("cuda")).record(run)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_what_failed_in_a_capture_is_said(cuda, error):
    """And not that the capture could not be ended, as where a stream was not joined or an operation
    invalidated it. Whoever records goes on with the stream that was current before."""

    class Capture:
        def __init__(self, graph, **_):
            pass

        def __enter__(self):
            pass

        def __exit__(self, *_):
            raise RuntimeError("operation failed due to a previous error during capture")

    def run():
        if cuda.CUDAGraph.called:  # after the warm-ups
            raise error

    cuda.graph, current = Capture, cuda.current_stream.return_value
    recorder = CudaGraphs(torch.device("cuda"))
    with pytest.raises(type(error)) as raised:
        recorder.record(run)
    assert raised.value is error
    assert cuda.stream.call_args_list[0].args == (current,)
    assert cuda.stream.return_value.__exit__.call_count == cuda.stream.call_count == 2
    assert recorder._broken == [cuda.CUDAGraph()]


def test_a_capture_that_could_be_ended_is_not_kept(cuda):
    """It would keep its memory, where a lack of memory has ended it."""

    def run():
        if cuda.CUDAGraph.called:
            raise torch.OutOfMemoryError("CUDA out of memory")

    cuda.graph = lambda *_, **__: nullcontext()
    recorder = CudaGraphs(torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError):
        recorder.record(run)
    assert recorder._broken == []


def test_streams_are_joined_after_a_failure(cuda):
    recorder, main = CudaGraphs(torch.device("cuda")), cuda.current_stream.return_value

    def fail():
        raise ValueError("no")

    for parts in ((fail, object), (object, fail)):
        main.wait_stream.reset_mock()
        with pytest.raises(ValueError, match="no"):
            recorder.both(*parts)
        main.wait_stream.assert_called_once_with(cuda.Stream())
