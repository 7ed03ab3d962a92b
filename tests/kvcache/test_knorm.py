"""L2 norm: keys are kept by norm, at random or by age; a number or a share of them."""

import math

import pytest
import torch

from toolkit.errors import SpecError


def order(scores):
    """Rows from the worthiest on, head by head."""
    return scores.argsort(1, descending=True).tolist()


@pytest.mark.parametrize(("keep", "sign"), [("low", 1), ("high", -1)])
def test_norms(make, view_of, keep, sign):
    view = view_of()
    expected = [
        sorted(range(12), key=lambda row: sign * math.hypot(*view.keys[head, row].tolist()))
        for head in range(2)
    ]
    assert order(make("kv", f"knorm:keep={keep}").score(view)) == expected


def test_the_latest(make, view_of):
    positions = torch.tensor([[0, 3, 8, 9], [-1, 2, 4, 9]])
    scores = make("kv", "knorm:keep=latest").score(view_of(positions=positions))
    assert order(scores) == [[3, 2, 1, 0]] * 2


def test_chance_depends_on_seed_layer_head_and_position_alone(make, view_of):
    def drawn(seed=0, **given):
        return make("kv", f"knorm:keep=random,seed={seed}").score(view_of(**given))

    first = drawn(rows=500)
    assert torch.equal(first, drawn(rows=500, queries=9))
    some = torch.arange(0, 500, 7)
    assert torch.equal(first[:, some], drawn(positions=some.expand(2, -1), now=900))
    for other in (drawn(seed=1, rows=500), drawn(layer=1, rows=500), first.flip(0)):
        together = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]).double())
        assert abs(float(together[0, 1])) < 0.15
    assert 0 <= float(first.min()) <= float(first.max()) < 1
    assert float(first.mean()) == pytest.approx(0.5, abs=0.05)
    quarters = torch.histc(first, 4, 0, 1)
    assert int(quarters.min()) > 200
    lagged = torch.corrcoef(torch.stack([first[0, 1:], first[0, :-1]]).double())
    assert abs(float(lagged[0, 1])) < 0.15


def test_a_fixed_number_or_a_share(make, view_of):
    def kept(options, **given):
        return make("kv", f"knorm:{options}").capacity(view_of(**given))

    assert kept("epoch=2,budget=9", rows=100) == 9
    assert [kept("ratio=0.3", rows=rows) for rows in (10, 11, 100)] == [3, 4, 30]
    assert kept("ratio=1", rows=50) == 50
    assert kept("ratio=0.1,epoch=2,budget=20,sinks=4,recent=8", rows=50) == 12  # never less than those


def test_nothing_is_evicted_before_prune_after(make, view_of):
    policy = make("kv", "knorm:epoch=2,budget=5,prune_after=64")
    assert policy.capacity(view_of(rows=64)) == 64
    assert policy.capacity(view_of(rows=65)) == 5


def test_the_first_layers_keep_everything(make, view_of):
    policy = make("kv", "knorm:epoch=2,budget=5,skip_layers=2")
    found = [policy.capacity(view_of(rows=40, layer=layer, layers=4)) for layer in range(4)]
    assert found == [40, 40, 5, 5]


def test_it_reads_no_queries(make, view_of):
    assert not make("kv", "knorm").logs
    for keep in ("low", "high", "random", "latest"):
        policy = make("kv", f"knorm:keep={keep}")
        assert policy.score(view_of(queries=0)).shape == (2, 12)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("knorm:keep=middle", "'keep' must be in"),
        ("knorm:ratio=1.5", "'ratio' must be <= 1"),
        ("knorm:ratio=-0.5", "'ratio' must be >= 0"),
        ("knorm:prune_after=-1", "'prune_after' must be >= 0"),
        ("knorm:skip_layers=-1", "'skip_layers' must be >= 0"),
        ("knorm:budget=8,recent=9", "recent=9 .*do not fit into budget=8"),
        ("knorm:seed=often", "seed"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
