"""Linears: the same products whichever kernel computes them, and steady bits under the rule found."""

import copy
import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from toolkit.conformance.models import tiny
from toolkit.runtime import numerics
from toolkit.runtime.compute.executors import choice, linears
from toolkit.runtime.compute.executors.linears import (
    BLOCK,
    Blocked,
    Linears,
    Packed,
    Rule,
    Ruled,
    Stock,
    packs,
)
from toolkit.runtime.kernels import build, native
from toolkit.runtime.models.load import prepared
from toolkit.runtime.session import ModelSession

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
    if kernel is Packed and not packs(dtype):
        pytest.skip(f"oneDNN has no linear of {dtype} for this CPU")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@given(
    rows=st.integers(1, 40),
    inputs=st.sampled_from([1, 7, 32, 41, 320]),
    outputs=st.sampled_from([1, 15, 32, 33, 97, 128]),
    biased=st.booleans(),
)
def test_every_kernel_gives_the_product(kernel, dtype, rows, inputs, outputs, biased):
    skip_what_is_not_there(kernel, dtype)
    weight, bias, x = (
        torch.randn(*shape).to(dtype) for shape in [(outputs, inputs), (outputs,), (rows, inputs)]
    )
    exact = x.double() @ weight.double().t() + (bias.double() if biased else 0)
    tolerance = 1e-4 if dtype is torch.float32 else 3e-2
    got = kernel.of(weight, bias if biased else None)(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance * inputs**0.5)


@pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
@pytest.mark.parametrize("dtype", LOW, ids=str)
@given(
    rows=st.integers(2, 70), inputs=st.integers(1, 300), outputs=st.integers(1, 90), data=st.data()
)
def test_our_rows_keep_their_bits(dtype, rows, inputs, outputs, data):
    """Alone or among others, at whichever place, in one chunk of inputs or in several."""
    weight, x = (torch.randn(*shape).to(dtype) for shape in [(outputs, inputs), (rows, inputs)])
    row = data.draw(st.integers(0, rows - 1))
    linear = Blocked.of(weight, None)
    assert torch.equal(linear(x)[row], linear(x[row : row + 1])[0])


@pytest.mark.parametrize("kernel", [p for p in KERNELS if p is not Stock])
@pytest.mark.parametrize("owned", [True, False], ids=["owned", "lent"])
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "qwen2"])
def test_a_model_of_linears_laid_out_anew(monkeypatch, family, dtype, owned, kernel):
    """As near to the module as rounding allows; what was copied is let go of, if it may be."""
    skip_what_is_not_there(kernel, dtype)
    monkeypatch.setattr(choice, "kernel_of", lambda _: kernel)
    module = copy.deepcopy(tiny(family)).to(dtype)
    exact = numerics.ModelSession(
        prepared("exact", tiny(family), executor="module")
    )
    model = prepared("it", module, owned=owned)
    weights = sum(p.numel() for p in module.parameters())
    session = numerics.ModelSession(model)
    ids = [i % 7 + 1 for i in range(9)]
    got, expected = session.prefill(ids).double(), exact.prefill(ids)
    assert kernel.name in model.executor.linears
    assert (model.executor.compiled is not None) == (kernel is Blocked)
    near = 1e-3 if dtype is torch.float32 else 0.1
    assert (got - expected).norm() < near * expected.norm()
    assert numerics.level_of(model).name == "bitwise"
    assert (sum(p.numel() for p in module.parameters()) < weights) == owned


def test_onednn_is_no_candidate_where_it_has_no_kernel(monkeypatch):
    """As on a CPU without AVX-512: packing a bf16 weight raises there."""

    def refuses(weight, bias):
        raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw")

    monkeypatch.setattr(Packed, "of", refuses)
    packs.cache_clear()
    try:
        module = copy.deepcopy(tiny("llama")).bfloat16()
        assert Packed not in linears.kernels_for(module)
        model = prepared("it", module, owned=True)
        ModelSession(model).prefill([1, 2, 3])
        assert numerics.level_of(model).name == "bitwise"
    finally:
        packs.cache_clear()


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
    by_blocks = sum(rows[:, i : i + 32] @ weight[:, i : i + 32].t() for i in range(0, 256, 32)).to(
        dtype
    )
    assert (at_once != by_blocks).float().mean() > 0.5


@pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
def test_the_fastest_kernel_is_chosen_among_the_steady(monkeypatch):
    module = copy.deepcopy(tiny("llama")).float()
    steps, took = {Stock: None, Packed: 2, Blocked: 1}, {Stock: 1.0, Packed: 2.0, Blocked: 3.0}
    monkeypatch.setattr(
        choice, "seconds", lambda _, rules: {kernel: took[kernel] for kernel in rules}
    )
    monkeypatch.setattr(choice, "_step", lambda _, kernel: steps[kernel])
    assert choice._fastest(module) is Packed
    took[Packed] = 3.0 - 1e-6  # slower than ours with what is spared around each of 15 linears
    assert choice._fastest(module) is Blocked
    steps[Stock] = 2
    assert choice._fastest(module) is Stock
    steps.update({Stock: None, Packed: None, Blocked: None})
    assert choice._fastest(module) is Stock


def test_kernels_take_turns_and_their_least_times_add_up(monkeypatch):
    """Over weights and counts of rows; what disturbs one turn does not count."""
    turns, clock = [], itertools.cycle([3.0, 4.0, 1.0, 2.0, 5.0, 6.0])
    monkeypatch.setattr(linears, "REPEATS", 3)
    monkeypatch.setattr(
        linears, "_timed", lambda kernel, _: (turns.append(type(kernel)), next(clock))[1]
    )
    weights = [(torch.randn(32, 32), 1), (torch.randn(64, 32), 5)]
    took = linears.seconds(weights, {Stock: Rule(1), Packed: Rule(1)})
    assert took == {Stock: 12 * 1.0, Packed: 12 * 2.0}
    assert turns == [Stock, Packed] * 12
