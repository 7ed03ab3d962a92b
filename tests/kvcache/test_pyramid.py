"""PyramidKV: SnapKV's scores, with capacities that fall linearly over the layers."""

from itertools import pairwise

import pytest
import torch

from toolkit.errors import SpecError


@pytest.fixture
def capacities(make, view_of):
    def of(spec, layers):
        policy = make("kv", spec)
        return [policy.capacity(view_of(layer=i, layers=layers)) for i in range(layers)]

    return of


@pytest.mark.parametrize("layers", [2, 3, 12, 33])
@pytest.mark.parametrize(("budget", "recent", "beta"), [(64, 16, 20), (200, 8, 3), (128, 32, 1.5)])
def test_a_line_with_the_budget_as_its_mean(capacities, layers, budget, recent, beta):
    found = capacities(f"pyramid:budget={budget},recent={recent},beta={beta}", layers)
    assert sum(found) / layers == pytest.approx(budget, abs=0.5)
    steps = [a - b for a, b in pairwise(found)]
    assert min(steps) >= 0
    assert max(steps) - min(steps) <= 1  # rounding
    assert found[-1] == recent + round((budget - recent) / beta)


def test_one_layer_has_the_budget(capacities):
    assert capacities("pyramid", 1) == [64]


@pytest.mark.parametrize("beta", [1, 0.5])
def test_without_a_slope_it_is_snapkv(make, capacities, view_of, beta):
    assert capacities(f"pyramid:beta={beta}", 4) == [64] * 4
    view = view_of(rows=20, queries=20)
    assert torch.equal(
        make("kv", f"pyramid:beta={beta}").score(view), make("kv", "snapkv").score(view)
    )


def test_every_layer_keeps_the_recent_positions(capacities):
    assert min(capacities("pyramid:budget=16", 8)) == 16


def test_it_decides_once(make):
    assert make("kv", "pyramid").once


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pyramid:beta=0", "'beta' must be > 0"),
        ("pyramid:kernel=0", "'kernel' must be odd"),
        ("pyramid:budget=8", "recent=16 .*do not fit into budget=8"),
        ("pyramid:epoch=8", "no option 'epoch'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
