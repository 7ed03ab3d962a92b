"""Where Triton is installed and cannot work, PyTorch does."""

import logging

import pytest
import torch

from toolkit.runtime.kernels.triton import jit
from toolkit.runtime.machine import disk


class Fails:
    def __init__(self, error):
        self.error = error

    def __getitem__(self, grid):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
        AssertionError("libcuda.so cannot found!\nPlease make sure GPU is set up"),
        OSError(),
    ],
    ids=str,
)
def test_a_kernel_that_cannot_be_launched_is_no_error(monkeypatch, caplog, error):
    monkeypatch.setattr(disk, "_said", {})
    monkeypatch.setattr(jit, "probe", Fails(error))
    with caplog.at_level(logging.WARNING):
        assert not jit.launches.__wrapped__(torch.device("cpu"))
    assert [record.getMessage() for record in caplog.records] == [
        f"Our kernels are not used on cpu: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    ]


@pytest.mark.parametrize("works", [True, False])
def test_kernels_run_where_they_can_be_launched(monkeypatch, works):
    monkeypatch.setattr(jit, "triton", object())
    monkeypatch.setattr(jit, "INTERPRETED", False)
    monkeypatch.setattr(jit, "launches", lambda device: works)

    class OnGpu:
        is_cuda, dtype, device = True, torch.bfloat16, torch.device("cuda:0")

    assert jit.runs(OnGpu()) == works
