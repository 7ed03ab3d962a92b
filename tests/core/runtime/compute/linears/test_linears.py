"""A model computed by any of the kernels: near the module, and bitwise equal to AR."""

import copy

import pytest
import torch

from toolkit.conformance.models import tiny
from toolkit.runtime import numerics
from toolkit.runtime.compute.linears import fastest
from toolkit.runtime.compute.linears.kernels import Blocked, Packed, Stock, onednn_packs
from toolkit.runtime.kernels import build, native
from toolkit.runtime.models.load import prepare

LOW = [torch.float32, torch.bfloat16]
KERNELS = [
    Stock,
    Packed,
    pytest.param(
        Blocked,
        marks=pytest.mark.skipif(native.why_not() is not None, reason="no C compiler"),
    ),
]


@pytest.fixture(scope="module", params=build.isas(), autouse=True)
def isa(request):
    """Everything here, once for each instruction set that the CPU has."""
    with native.using(request.param):
        yield request.param


def skip_what_is_not_there(kernel, dtype):
    if kernel is Packed and not onednn_packs(dtype):
        pytest.skip(f"oneDNN has no linear of {dtype} for this CPU")


@pytest.mark.parametrize("kernel", [p for p in KERNELS if p is not Stock])
@pytest.mark.parametrize("owned", [True, False], ids=["owned", "lent"])
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "qwen2"])
def test_a_model_of_linears_laid_out_anew(monkeypatch, family, dtype, owned, kernel):
    """As near to the module as rounding allows; what was copied is let go of, if it may be."""
    skip_what_is_not_there(kernel, dtype)
    monkeypatch.setattr(fastest, "fastest_kernel", lambda _: kernel)
    module = copy.deepcopy(tiny(family)).to(dtype)
    exact = numerics.ModelSession(
        prepare("exact", tiny(family), executor="module")
    )
    model = prepare("it", module, owned=owned)
    weights = sum(p.numel() for p in module.parameters())
    session = numerics.ModelSession(model)
    ids = [i % 7 + 1 for i in range(9)]
    got, expected = session.prefill(ids).double(), exact.prefill(ids)
    assert kernel.name in model.executor.linears
    assert (model.executor.c_decoder is not None) == (kernel is Blocked)
    near = 1e-3 if dtype is torch.float32 else 0.1
    assert (got - expected).norm() < near * expected.norm()
    assert numerics.find_level(model).name == "bitwise"
    assert (sum(p.numel() for p in module.parameters()) < weights) == owned
