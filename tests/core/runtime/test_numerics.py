"""Numerics levels: a level is claimed only after a comparison, and stock kernels fail it."""

import copy
import re
from types import SimpleNamespace

import attrs
import pytest
import torch

from toolkit.conformance.models import FAMILIES, tiny
from toolkit.runtime import numerics
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.compute.executors.c_decoder import CDecoder
from toolkit.runtime.compute.linears.kernels import Blocked
from toolkit.runtime.kernels import build, native
from toolkit.runtime.models.load import prepare

LOW = [torch.float32, torch.bfloat16]
compiled = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")


def loaded(family, dtype, executor="auto", owned=True):
    return prepare("it", copy.deepcopy(tiny(family)).to(dtype), executor=executor, owned=owned)


@compiled
@pytest.mark.parametrize("isa", build.isas())
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "phi"])
def test_every_described_family_is_bitwise(family, dtype, isa):
    with native.using(isa):
        model = loaded(family, dtype)
        assert numerics.find_difference(model) is None
        assert numerics.find_level(model).name == "bitwise"
    said = "trees of 1 to 64 nodes gave AR's bits, after up to 256 tokens"
    assert numerics.find_level(model).why == said


def test_claims_go_as_far_as_was_probed():
    assert numerics.longest_probed(SimpleNamespace(positions=256)) == 256
    model = SimpleNamespace(positions=10_000)
    for length, longest in [(1, 2048), (2048, 2048), (2049, 4096), (9000, 10_000)]:
        assert numerics.longest_probed(model, length) == longest


@compiled
def test_bits_that_change_in_long_contexts_alone_are_found_out(monkeypatch):
    """The control: one row's logits get another last bit after 200 tokens."""
    model = loaded("llama", torch.float32)
    forward = CDecoder.forward

    def uneven(self, kernels, now, keep):
        out = forward(self, kernels, now, keep)
        return out * (1 + 1e-6) if len(now.host.tokens) == 1 and now.cache.length > 150 else out

    monkeypatch.setattr(fastest, "fastest_kernel", lambda *_: Blocked)
    monkeypatch.setattr(CDecoder, "forward", uneven)
    assert numerics.find_difference(model, 100) is None
    assert re.search("nodes after 19[2-9] tokens differ", numerics.find_difference(model, 256))


@pytest.mark.parametrize(
    ("change", "same"),
    [(lambda it: it.nextafter(torch.ones(())), False), (torch.neg, False), (torch.clone, True)],
)
def test_bits_are_compared_and_not_numbers(change, same):
    """One unit in the last place, or the sign of a zero, is a difference."""
    values = torch.tensor([0.0, float("nan")])
    assert numerics._same_bits(values, change(values)) == same


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_stock_attention_is_found_out(dtype):
    """The control: the same linears under the stock attention do not give AR's bits."""
    model = loaded("llama", dtype)
    with native.using(None):
        assert "differ from AR's" in numerics.find_difference(model)
        assert numerics.find_level(model).name == ("fp32" if dtype is torch.float32 else "tie")
        assert "switched off" in numerics.find_level(model).why


@compiled
def test_linears_that_depend_on_rows_are_found_out(monkeypatch):
    """The control: one linear that adds a last bit to lone rows."""
    model = loaded("llama", torch.float32)
    model.executor.c_decoder = None  # a linear at a time
    ruled = model.executor.maps.functions[0]
    plain, seen = type(ruled).__call__, []

    def uneven(self, x):
        seen.append(len(x))
        return plain(self, x) * (1 + 1e-6 * (len(x) % 3))

    monkeypatch.setattr(type(ruled), "__call__", uneven)
    assert "differ from AR's" in numerics.find_difference(model)
    assert model.executor.maps.find_row_multiple() is None


def test_what_is_known_without_a_comparison():
    level = numerics.find_level(loaded("llama", torch.float64))
    assert level == numerics.Level("fp32", "not bitwise: no kernels of ours for float64")


@compiled
def test_a_module_claims_nothing_that_was_not_probed():
    level = numerics.find_level(loaded("llama", torch.bfloat16, executor="module"))
    assert level.name == "tie"
    assert "only the functional executor's linears" in level.why


@pytest.mark.parametrize(
    ("dtype", "device", "tf32", "name"),
    [
        (torch.float32, "cuda", True, "tie"),
        (torch.float32, "cuda", False, "fp32"),
        (torch.float64, "cuda", True, "fp32"),
        (torch.float32, "cpu", True, "fp32"),
    ],
)
def test_fp32_in_tf32_is_no_fp32(monkeypatch, dtype, device, tf32, name):
    monkeypatch.setattr(numerics, "multiplies_in_tf32", lambda: tf32)
    level = numerics._without_bits(SimpleNamespace(dtype=dtype, device=torch.device(device)), "why")
    said = "; fp32 is multiplied in TF32" if name == "tie" else ""
    assert level == numerics.Level(name, f"not bitwise: why{said}")
    rounding = numerics.rounding_of(SimpleNamespace(dtype=dtype, device=torch.device(device)))
    assert rounding == (torch.float16 if name == "tie" else dtype)  # of which ties are counted


def test_a_level_on_a_gpu_holds_for_its_settings(monkeypatch):
    model, found = attrs.evolve(loaded("llama", torch.float64), device=torch.device("cuda")), []
    monkeypatch.setattr(numerics, "_compare", lambda *given: found.append(given) or level)
    level = numerics.Level("tie", "")
    for tf32 in ("0", "1", "1"):
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", tf32)
        numerics.find_level(model)
    assert len(found) == 2


def test_a_long_request_is_claimed_for_its_own_length(monkeypatch):
    model, probed = attrs.evolve(loaded("llama", torch.float64), positions=10_000), []

    def found(model, longest):
        probed.append(longest)
        return numerics.Level("bitwise" if longest <= 5000 else "fp32", "")

    monkeypatch.setattr(numerics, "_compare", found)
    levels = [numerics.find_level(model, n).name for n in (10, 2048, 3000, 6000, 3000)]
    assert levels == [*["bitwise"] * 3, "fp32", "bitwise"]
    assert probed == [2048, 4096, 8192]
