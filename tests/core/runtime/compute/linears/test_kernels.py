"""Every kernel gives the product, and rows of ours keep their bits."""

import copy
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from toolkit.conformance.models import tiny
from toolkit.runtime import numerics
from toolkit.runtime.compute.linears import kernels
from toolkit.runtime.compute.linears.kernels import Blocked, Packed, Stock, onednn_packs
from toolkit.runtime.kernels import native
from toolkit.runtime.kernels.triton import jit
from toolkit.runtime.kernels.triton.linear import SkinnyLinear
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

pytestmark = pytest.mark.usefixtures("isa")


@given(
    rows=st.integers(1, 40),
    inputs=st.sampled_from([1, 7, 32, 41, 320]),
    outputs=st.sampled_from([1, 15, 32, 33, 97, 128]),
    biased=st.booleans(),
)
def test_every_kernel_gives_the_product(kernel, dtype, rows, inputs, outputs, biased):
    weight, bias, x = (
        torch.randn(*shape).to(dtype) for shape in [(outputs, inputs), (outputs,), (rows, inputs)]
    )
    exact = x.double() @ weight.double().t() + (bias.double() if biased else 0)
    tolerance = 1e-4 if dtype is torch.float32 else 3e-2
    got = kernel.of(weight, bias if biased else None)(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance * inputs**0.5)


@pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
@given(
    rows=st.integers(2, 70), inputs=st.integers(1, 300), outputs=st.integers(1, 90), data=st.data()
)
def test_our_rows_keep_their_bits(dtype, rows, inputs, outputs, data):
    """Alone or among others, at whichever place, in one chunk of inputs or in several."""
    weight, x = (torch.randn(*shape).to(dtype) for shape in [(outputs, inputs), (rows, inputs)])
    row = data.draw(st.integers(0, rows - 1))
    linear = Blocked.of(weight, None)
    assert torch.equal(linear(x)[row], linear(x[row : row + 1])[0])


@pytest.mark.parametrize(
    ("dtype", "failure", "found"),
    [
        (torch.bfloat16, None, [Stock, SkinnyLinear]),
        (torch.half, None, [Stock, SkinnyLinear]),
        (torch.half, "no C compiler", [Stock]),
        (torch.float, None, [Stock]),
    ],
)
def test_a_gpu_has_a_kernel_of_ours_for_two_bytes(monkeypatch, dtype, failure, found):
    """Where Triton can launch it: PyTorch would multiply in its name."""
    monkeypatch.setattr(jit, "triton", object())
    monkeypatch.setattr(jit, "INTERPRETED", False)
    monkeypatch.setattr(jit, "launch_failure", lambda _: failure)
    module = SimpleNamespace(
        device=torch.device("cuda"), dtype=dtype, parameters=lambda: [torch.zeros(1, dtype=dtype)]
    )
    assert kernels.kernels_for(module) == found


def test_onednn_is_no_candidate_where_it_has_no_kernel(monkeypatch):
    """As on a CPU without AVX-512: packing a bf16 weight raises there."""

    def refuses(weight, bias):
        raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw")

    monkeypatch.setattr(Packed, "of", refuses)
    onednn_packs.cache_clear()
    try:
        module = copy.deepcopy(tiny("llama")).bfloat16()
        assert Packed not in kernels.kernels_for(module)
        model = prepare("it", module, owned=True)
        ModelSession(model).prefill([1, 2, 3])
        assert numerics.find_level(model).name == "bitwise"
    finally:
        onednn_packs.cache_clear()
