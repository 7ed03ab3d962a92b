"""How CUDA graphs are recorded, with a mock in the place of `torch.cuda`."""

from unittest.mock import MagicMock

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


def test_what_triton_cannot_compile_cannot_be_captured(cuda):
    """So callers, which expect a `RuntimeError`, go on without the graph."""

    def run():
        raise TritonError("out of resource: shared memory")

    with pytest.raises(RuntimeError, match="TritonError: out of resource"):
        CudaGraphs(torch.device("cuda")).record(run)
