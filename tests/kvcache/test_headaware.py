"""Head-aware windows: each head gets the smallest window that holds its share of attention."""

import pytest
import torch

from toolkit.errors import SpecError

GRID = 2**-7  # shares are compared on bfloat16's


def shares(view, weights, observed, sinks):
    """head → distance → share of its last queries' attention, sinks apart."""
    found = []
    for head in range(len(view.positions)):
        mass = {}
        for t in range(max(0, view.queries.shape[1] - observed), view.queries.shape[1]):
            at = view.now - view.queries.shape[1] + t
            for row, position in enumerate(view.positions[head].tolist()):
                if sinks <= position <= at:
                    weight = float(weights[head, :, t, row].mean())
                    mass[at - position] = mass.get(at - position, 0) + weight
        total = sum(mass.values())
        found.append({distance: weight / total for distance, weight in mass.items()})
    return found


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("observed", "sinks"), [(3, 0), (8, 4), (64, 2)])
def test_the_least_window_that_holds_the_share(make, view_of, weights_of, mass, observed, sinks):
    for seed in range(4):
        view = view_of(rows=24, queries=24, seed=seed, scaling=1.5)
        policy = make(
            "kv", f"headaware:mass={mass},observed={observed},sinks={sinks},recent=1,budget=99"
        )
        policy.score(view)
        windows = (policy.capacity(view) - sinks).tolist()
        for window, share in zip(
            windows, shares(view, weights_of(view), observed, sinks), strict=True
        ):
            held = [sum(s for d, s in share.items() if d < width) for width in (window, window - 1)]
            assert held[0] >= mass - GRID
            assert held[1] < mass + GRID


def test_windows_keep_within_their_bounds(make, view_of):
    view = view_of(rows=40, queries=40)
    for spec, expected in (
        ("headaware:mass=0.01,recent=6,sinks=3,budget=20,epoch=2", 9),
        ("headaware:mass=1,recent=6,sinks=3,budget=20,epoch=2", 20),
    ):
        policy = make("kv", spec)
        policy.score(view)
        assert policy.capacity(view).tolist() == [expected] * 2


def test_the_newest_stay(make, view_of):
    positions = torch.tensor([[0, 3, 8, 9], [-1, 2, 4, 9]])
    scores = make("kv", "headaware").score(view_of(positions=positions))
    assert scores.argsort(1, descending=True).tolist() == [[3, 2, 1, 0]] * 2


def test_heads_differ_and_the_prompt_alone_is_measured(make, view_of):
    """One head looks back one position, the other at the oldest."""
    view = view_of(rows=30, queries=30, width=30, groups=1, scaling=1.0)
    view.keys[:] = torch.eye(30)
    view.queries[:] = 0.0
    for t in range(30):
        view.queries[0, t, max(t - 1, 0)] = view.queries[1, t, 4 if t >= 4 else 0] = 50.0
    policy = make("kv", "headaware:budget=99,recent=1,observed=4")
    policy.score(view)
    windows = policy.capacity(view).tolist()
    assert windows == [4 + 2, 4 + 26]  # the last four look back 22 … 25, and 3 of 4 is not enough
    later = view_of(rows=30, queries=16, seed=9, now=46)
    policy.score(later)
    assert policy.capacity(later).tolist() == windows
    policy.score(view_of(rows=30, queries=30, layer=1, seed=3))
    assert policy.capacity(view_of(rows=30, layer=1)).tolist() != windows


def test_a_prompt_of_sinks_alone(make, view_of):
    policy = make("kv", "headaware")
    policy.score(view_of(rows=3, queries=3))
    assert policy.capacity(view_of(rows=3)).tolist() == [128, 128]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("headaware:mass=0", "'mass' must be > 0"),
        ("headaware:mass=1.2", "'mass' must be <= 1"),
        ("headaware:observed=0", "'observed' must be >= 1"),
        ("headaware:recent=0", "'recent' must be >= 1"),
        ("headaware:budget=10", "sinks=4, recent=8 .* do not fit into budget=10"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
