"""Linears: the same products whichever kernel computes them, and steady bits under the rule found."""

import copy

import pytest
import torch
from torch import nn

from toolkit.conformance.models import tiny
from toolkit.runtime import numerics
from toolkit.runtime.executors import choice, linears
from toolkit.runtime.executors.linears import BLOCK, Linears, Packed, Rule, Ruled, Stock
from toolkit.runtime.models import prepared

LOW = [torch.float32, torch.bfloat16]
packing = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN"
)


@packing
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_packed_is_the_stock_product(dtype):
    weight, bias, x = (torch.randn(*shape).to(dtype) for shape in [(97, 40), (97,), (5, 40)])
    expected = x.double() @ weight.double().t() + bias.double()
    tolerance = 1e-5 if dtype is torch.float32 else 3e-2
    for linear in (Packed.of(weight, bias), Stock(weight, bias)):
        torch.testing.assert_close(linear(x).double(), expected, rtol=tolerance, atol=tolerance)


@packing
@pytest.mark.parametrize("owned", [True, False], ids=["owned", "lent"])
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "qwen2"])
def test_a_model_of_packed_linears(monkeypatch, family, dtype, owned):
    """As near to the module as rounding allows; what was packed is let go of, if it may be."""
    monkeypatch.setattr(choice, "packs", lambda _: True)
    module = copy.deepcopy(tiny(family)).to(dtype)
    exact = numerics.ModelSession(
        prepared("exact", tiny(family), executor="module"), numerics.Everything()
    )
    model = prepared("it", module, owned=owned)
    weights = sum(p.numel() for p in module.parameters())
    session = numerics.ModelSession(model, numerics.Everything())
    ids = torch.arange(9) % 7 + 1
    got, expected = session.prefill(ids).double(), exact.prefill(ids)
    assert "prepacked" in model.executor.linears
    near = 1e-3 if dtype is torch.float32 else 0.1
    assert (got - expected).norm() < near * expected.norm()
    assert model.level.name == "bitwise"
    assert (sum(p.numel() for p in module.parameters()) < weights) == owned


def test_rules_pad_rows():
    assert [Rule(1).padded(n) for n in (1, 5)] == [1, 5]
    assert [Rule(2).padded(n) for n in (1, 2, 5)] == [2, 2, 5]
    assert [Rule(4).padded(n) for n in (1, 4, 5)] == [4, 4, 8]
    assert [Rule(BLOCK).padded(n) for n in (1, 16, 17)] == [16, 16, 32]


@pytest.mark.parametrize(
    ("steady", "step"),
    [
        (lambda rows: True, 1),
        (lambda rows: rows > 1, 2),
        (lambda rows: rows % 4 == 0, 4),
        (lambda rows: rows == BLOCK, BLOCK),
        (lambda rows, calls=[]: calls.append(rows) or len(calls) % 2, None),
    ],
)
def test_the_first_rule_that_holds_is_found(monkeypatch, steady, step):
    made = Linears(owned=True)
    weight = torch.randn(24, 32, dtype=torch.double)
    monkeypatch.setattr(Stock, "__call__", lambda self, x: product(x, self.weight, steady))
    made.made.append(Ruled(Stock(weight, None), made.rule))
    assert made.settle() == (step is not None)
    assert made.rule.step == (step or 1)


def product(x, weight, steady):
    """Rows times a weight, one at a time, with another last bit at counts that are not steady."""
    out = torch.stack([weight @ row for row in x])
    return out * (1.0 if steady(len(x)) else 1 + 2.0**-40)


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_probes_show_the_order_of_a_sum(dtype):
    """The control: a sum by blocks differs from a sum in one go in most of a probe's products."""
    weight = linears.probe_weight(torch.empty(64, 256, dtype=dtype)).float()
    rows = linears.probe_rows(8, 256, dtype).float()
    at_once = (rows @ weight.t()).to(dtype)
    by_blocks = sum(
        rows[:, i : i + 32] @ weight[:, i : i + 32].t() for i in range(0, 256, 32)
    ).to(dtype)
    assert (at_once != by_blocks).float().mean() > 0.5


def test_the_faster_kernel_is_chosen_among_the_steady(monkeypatch):
    module = nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 32))
    for steps, took, packs in [
        ({False: 1, True: 2}, {False: 2.0, True: 1.0}, True),
        ({False: 1, True: 2}, {False: 1.0, True: 2.0}, False),
        ({False: None, True: 2}, {False: 1.0, True: 2.0}, True),
        ({False: 1, True: None}, {False: 2.0, True: 1.0}, False),
    ]:
        monkeypatch.setattr(choice, "_step", lambda _, packed, s=steps: s[packed])
        monkeypatch.setattr(choice, "seconds", lambda _, packed, __, t=took: t[packed])
        assert choice._packs(module) == packs
