"""Instruction sets, dtypes and kernels of linears, as fixtures."""

import pytest
import torch

from toolkit.runtime.compute.linears.kernels import Blocked, Packed, Stock, onednn_packs
from toolkit.runtime.kernels import build, native


@pytest.fixture(scope="module", params=build.isas())
def isa(request):
    """Runs a test once for each instruction set that the CPU has."""
    with native.using(request.param):
        yield request.param


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    """Runs a test once for each dtype that our kernels compute."""
    return request.param


@pytest.fixture(scope="module", params=[Stock, Packed, Blocked], ids=lambda kernel: kernel.name)
def kernel(request, dtype):
    """Runs a test once for each kernel of linears that this machine has."""
    if request.param is Blocked and native.why_not() is not None:
        pytest.skip("no C compiler")
    if request.param is Packed and not onednn_packs(dtype):
        pytest.skip(f"oneDNN has no linear of {dtype} for this CPU")
    return request.param
