"""LagKV: rows are ranked within their chunk by variation relative to the next chunk."""

import math
import statistics

import pytest
import torch

from toolkit.errors import SpecError


def spreads(here, after):
    """Each row's spread over its channels, scaled by the next stretch's range, as a share."""
    low = [min(channel) for channel in zip(*after, strict=True)]
    high = [max(channel) for channel in zip(*after, strict=True)]
    scaled = [[(x - a) / (b - a) for x, a, b in zip(row, low, high, strict=True)] for row in here]
    weights = [math.exp(statistics.stdev(row)) for row in scaled]
    return [weight / sum(weights) for weight in weights]


def slow(keys, values, sinks, lag):
    """Scores of one head's rows, lists of lists; 2 for what has no stretch after it."""
    scores = [2.0] * len(keys)
    for start in range(sinks, len(keys) - 2 * lag + 1, lag):
        here, after = slice(start, start + lag), slice(start + lag, start + 2 * lag)
        both = zip(spreads(keys[here], keys[after]), spreads(values[here], values[after]), strict=True)
        sums = torch.tensor([a + b for a, b in both]).bfloat16().tolist()
        for rank, row in enumerate(sorted(range(lag), key=lambda row: sums[row])):
            scores[start + row] = rank / lag
    return scores


@pytest.mark.parametrize("rows", [3, 9, 10, 13, 14, 31])
@pytest.mark.parametrize(("sinks", "lag"), [(2, 4), (0, 5), (4, 2)])
def test_against_a_loop(make, view_of, rows, sinks, lag):
    for seed in range(5):
        view = view_of(rows=rows, width=6, seed=seed)
        ours = make("kv", f"lagkv:lag={lag},sinks={sinks}").score(view)
        expected = [
            slow(view.keys[head].tolist(), view.values[head].tolist(), sinks, lag)
            for head in range(2)
        ]
        assert ours.tolist() == expected
        kept = (rows - sinks) % lag + lag if rows - sinks >= 2 * lag else max(0, rows - sinks)
        assert int((ours == 2).sum(1).unique()) == min(rows, sinks) + kept


def test_every_stretch_keeps_its_share(make, view_of):
    scores = make("kv", "lagkv:lag=5,sinks=0").score(view_of(rows=25))
    best = (scores >= 0.6) & (scores < 2)
    assert best[:, :20].reshape(2, 4, 5).sum(2).tolist() == [[2] * 4] * 2


def test_it_reads_no_queries(make, view_of):
    assert not make("kv", "lagkv").logs
    assert make("kv", "lagkv").score(view_of(rows=80, queries=0)).shape == (2, 80)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lagkv:lag=1", "'lag' must be >= 2"),
        ("lagkv:budget=0", "'budget' must be >= 1"),
        ("lagkv:budget=3", "sinks=4, recent=0 .* do not fit into budget=3"),
        ("lagkv:recent=4", "no option 'recent'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
