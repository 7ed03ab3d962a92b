"""The rule that is found is the first that keeps every row's bits."""

import pytest
import torch

from toolkit.runtime.compute.linears.batch_invariance import (
    TILE,
    RowRule,
    RuledLinear,
    find_row_multiple,
    find_whole,
    probe_rows,
    probe_weight,
)
from toolkit.runtime.compute.linears.kernels import Stock


def test_rules_pad_rows():
    assert [RowRule(1).padded(n) for n in (1, 5)] == [1, 5]
    assert [RowRule(2).padded(n) for n in (1, 2, 5)] == [2, 2, 5]
    assert [RowRule(4).padded(n) for n in (1, 4, 5)] == [4, 4, 8]
    assert [RowRule(TILE).padded(n) for n in (1, 16, 17)] == [16, 16, 32]


@pytest.mark.parametrize(
    ("invariant", "row_multiple"),
    [
        (lambda rows: True, 1),
        (lambda rows: rows > 1, 2),
        (lambda rows: rows % 4 == 0, 4),
        (lambda rows: rows == TILE, TILE),
        (lambda rows, calls=[]: calls.append(rows) or len(calls) % 2, None),
    ],
)
def test_the_first_rule_that_holds_is_found(monkeypatch, invariant, row_multiple):
    weight = torch.randn(24, 32, dtype=torch.double)
    monkeypatch.setattr(Stock, "__call__", lambda self, x: product(x, self.weight, invariant))
    assert find_row_multiple([Stock(weight, None)], torch.double) == row_multiple


@pytest.mark.parametrize(("most", "found"), [(TILE, 0), (32, 0), (64, 1)])
def test_linears_that_need_no_tiles(monkeypatch, most, found):
    """Those whose rows have the bits of a tile's in all passes, not in some."""
    kernel = Stock(torch.randn(24, 32, dtype=torch.double), None)
    monkeypatch.setattr(
        Stock, "__call__", lambda self, x: product(x, self.weight, lambda rows: rows <= most)
    )
    whole = find_whole([kernel], torch.double, 64)
    assert whole == ({str(kernel.kind)} if found else set())
    calls, rule = [], RowRule(TILE, 64, frozenset(whole))
    monkeypatch.setattr(Stock, "__call__", lambda self, x: calls.append(len(x)) or x)
    RuledLinear(kernel, rule)(torch.zeros(48, 32))
    assert calls == ([48] if found else [16, 16, 16])


def product(x, weight, invariant):
    """Rows times a weight, one at a time, with another last bit where `invariant` is false."""
    out = torch.stack([weight @ row for row in x])
    return out * (1.0 if invariant(len(x)) else 1 + 2.0**-40)


def test_probes_show_the_order_of_a_sum(dtype):
    """The control: a sum by blocks differs from a sum in one go in most of a probe's products."""
    weight = probe_weight(torch.empty(64, 256, dtype=dtype)).float()
    rows = probe_rows(8, 256, dtype).float()
    at_once = (rows @ weight.t()).to(dtype)
    by_blocks = sum(rows[:, i : i + 32] @ weight[:, i : i + 32].t() for i in range(0, 256, 32)).to(
        dtype
    )
    assert (at_once != by_blocks).float().mean() > 0.5
