"""KeyDiff: keys close to the mean direction are evicted first."""

import math

import pytest
import torch

from toolkit.errors import SpecError


def unit(vector):
    length = math.hypot(*vector)
    return [x / length for x in vector]


def test_cosine_with_the_mean_direction(make, view_of):
    view = view_of()
    ours = make("kv", "keydiff").score(view)
    for head in range(2):
        units = [unit(key) for key in view.keys[head].tolist()]
        mean = unit([sum(channel) for channel in zip(*units, strict=True)])
        expected = [-sum(a * b for a, b in zip(key, mean, strict=True)) for key in units]
        assert ours[head].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_keys_length_does_not_count(make, view_of):
    view, longer = view_of(), view_of()
    longer.keys = longer.keys * torch.arange(1, 13)[:, None]
    torch.testing.assert_close(make("kv", "keydiff").score(view), make("kv", "keydiff").score(longer))


def test_the_odd_one_stays(make, view_of):
    view = view_of()
    view.keys[:] = torch.tensor([1.0, 0.1, 0.0, 0.0])
    view.keys[:, 5] = torch.tensor([-1.0, 1.0, 0.0, 0.0])
    assert make("kv", "keydiff").score(view).argmax(1).tolist() == [5, 5]


def test_it_reads_no_queries(make, view_of):
    assert not make("kv", "keydiff").logs
    assert make("kv", "keydiff").score(view_of(queries=0)).shape == (2, 12)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("keydiff:budget=0", "'budget' must be >= 1"),
        ("keydiff:epoch=0", "'epoch' must be >= "),
        ("keydiff:budget=16", "recent=32 .*do not fit into budget=16"),
        ("keydiff:ratio=0.5", "no option 'ratio'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
