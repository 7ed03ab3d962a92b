"""Levels of exactness: what is claimed was compared, and a stock kernel does not pass for ours."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch

from toolkit.conformance.models import FAMILIES, tiny
from toolkit.runtime import numerics
from toolkit.runtime.executors import choice
from toolkit.runtime.executors.compiled import Compiled
from toolkit.runtime.executors.linears import Blocked
from toolkit.runtime.kernels import build, native
from toolkit.runtime.models import prepared

LOW = [torch.float32, torch.bfloat16]
compiled = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")


def loaded(family, dtype, executor="auto", owned=True):
    return prepared("it", copy.deepcopy(tiny(family)).to(dtype), executor=executor, owned=owned)


@compiled
@pytest.mark.parametrize("isa", build.isas())
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "phi"])
def test_every_described_family_is_bitwise(family, dtype, isa):
    with native.using(isa):
        model = loaded(family, dtype)
        assert numerics.differs(model) is None
        assert model.level.name == "bitwise"
    assert model.level.why == "trees of 1 to 64 nodes gave AR's bits, after up to 256 tokens"


def test_claims_go_as_far_as_was_probed():
    assert numerics.longest_probed(SimpleNamespace(positions=256)) == 256
    model = SimpleNamespace(positions=10_000)
    for length, longest in [(1, 2048), (2048, 2048), (2049, 4096), (9000, 10_000)]:
        assert numerics.longest_probed(model, length) == longest


@compiled
def test_bits_that_change_in_long_contexts_alone_are_found_out(monkeypatch):
    """The control: one row's logits get another last bit after 200 tokens."""
    model = loaded("llama", torch.float32)
    forward = Compiled.forward

    def uneven(self, kernels, tokens, now, keep):
        out = forward(self, kernels, tokens, now, keep)
        return out * (1 + 1e-6) if len(tokens) == 1 and now.cache.length > 150 else out

    monkeypatch.setattr(choice, "kernel_of", lambda _: Blocked)
    monkeypatch.setattr(Compiled, "forward", uneven)
    assert numerics.differs(model, 100) is None
    assert re.search("nodes after 19[2-9] tokens differ", numerics.differs(model, 256))


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_stock_attention_is_found_out(dtype):
    """The control: the same linears under the stock attention do not give AR's bits."""
    model = loaded("llama", dtype)
    with native.using(None):
        assert "differ from AR's" in numerics.differs(model)
        assert model.level.name == ("fp32" if dtype is torch.float32 else "tie")
        assert "switched off" in model.level.why


@compiled
def test_linears_that_depend_on_rows_are_found_out(monkeypatch):
    """The control: one linear that adds a last bit to lone rows."""
    model = loaded("llama", torch.float32)
    model.executor.compiled = None  # a linear at a time
    ruled = model.executor.maps.made[0]
    plain, seen = type(ruled).__call__, []

    def uneven(self, x):
        seen.append(len(x))
        return plain(self, x) * (1 + 1e-6 * (len(x) % 3))

    monkeypatch.setattr(type(ruled), "__call__", uneven)
    assert "differ from AR's" in numerics.differs(model)
    assert not model.executor.maps.settle()


def test_what_is_known_without_a_comparison():
    level = loaded("llama", torch.float64).level
    assert level == numerics.Level("fp32", "not bitwise: no kernels of ours for float64")


@compiled
def test_a_module_claims_nothing_that_was_not_probed():
    level = loaded("llama", torch.bfloat16, executor="module").level
    assert level.name == "tie"
    assert "only the functional executor's linears" in level.why


def test_a_long_request_is_claimed_for_its_own_length(monkeypatch):
    model, asked = loaded("llama", torch.float64), []

    def level_of(model, length=numerics.PROBED):
        asked.append(length)
        return numerics.Level("bitwise" if length <= 5000 else "fp32", "")

    monkeypatch.setattr(numerics, "level_of", level_of)
    assert [model.numerics_upto(n) for n in (10, 2048, 3000, 6000)] == [*["bitwise"] * 3, "fp32"]
    assert asked == [2048, 3000, 6000]
