"""A model computed by any of the kernels: near the module, and bitwise equal to AR."""

import copy

import pytest
import torch

from toolkit.conformance.models import tiny
from toolkit.runtime import numerics
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.compute.linears.kernels import Blocked, Packed
from toolkit.runtime.kernels.triton.linear import SkinnyLinear
from toolkit.runtime.models.load import prepare

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("kernel", [Packed, Blocked], indirect=True)
@pytest.mark.parametrize("owned", [True, False], ids=["owned", "lent"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "qwen2"])
def test_a_model_of_linears_laid_out_anew(monkeypatch, family, dtype, owned, kernel):
    """As near to the module as rounding allows; what was copied is let go of, if it may be."""
    monkeypatch.setattr(fastest, "fastest_kernel", lambda *_: kernel)
    module = copy.deepcopy(tiny(family)).to(dtype)
    exact = numerics.ModelSession(prepare("exact", tiny(family), executor="module"))
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


@pytest.mark.parametrize("owned", [True, False], ids=["owned", "lent"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_model_of_linears_for_a_gpu(monkeypatch, family, owned):
    """They share the module's weights; here PyTorch multiplies."""
    monkeypatch.setattr(fastest, "fastest_kernel", lambda *_: SkinnyLinear)
    module = copy.deepcopy(tiny(family)).float()
    exact = numerics.ModelSession(prepare("exact", tiny(family), executor="module"))
    model = prepare("it", module, owned=owned)
    ids = [i % 7 + 1 for i in range(9)]
    got, expected = numerics.ModelSession(model).prefill(ids).double(), exact.prefill(ids)
    assert (got - expected).norm() < 1e-3 * expected.norm()
    linears = model.executor.maps
    assert linears.description.startswith("our own in Triton, ")
    held = {p.untyped_storage().data_ptr() for p in module.parameters()}
    parts = [part for made in linears.functions for part in made.parts]
    assert {type(part) for part in parts} == {SkinnyLinear}
    assert {part.weight.untyped_storage().data_ptr() for part in parts} <= held
