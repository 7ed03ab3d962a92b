"""Expected Attention: expected weights under Gaussian queries, times the norm of the value."""

from functools import partial

import pytest
import torch

from toolkit.errors import SpecError
from toolkit.runtime.kv.rotary import Rotary

FREQUENCIES = torch.tensor([1.0, 0.3], dtype=torch.float64)
ROTATE = partial(Rotary((FREQUENCIES,)).rotate, 0)


def rotation(position):
    """The matrix [4, 4] that takes a column from position 0 to `position`."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    for i, frequency in enumerate(FREQUENCIES):
        cos, sin = torch.cos(position * frequency), torch.sin(position * frequency)
        matrix[i, i], matrix[i, i + 2] = cos, -sin
        matrix[i + 2, i], matrix[i + 2, i + 2] = sin, cos
    return matrix


def weighted(logits, view, head):
    """Shares of each row, the mean over a KV head's queries, times the norms of the values."""
    shares = torch.stack([row.softmax(0) for row in logits]).mean(0)
    return shares * view.values[head].norm(dim=-1)


@pytest.mark.parametrize("future", [1, 3, 100])
def test_by_matrices(make, view_of, future):
    view = view_of(queries=6, rotate=ROTATE)
    ours = make("kv", f"expected:future={future}").score(view)
    ahead = sum(rotation(view.now + i) for i in range(future)) / future
    for head in range(2):
        logits = []
        for group in range(2):
            queries = [
                rotation(int(at)).T @ query
                for at, query in zip(view.query_positions, view.queries[2 * head + group], strict=True)
            ]
            mean = sum(queries) / len(queries)
            spread = sum(torch.outer(q - mean, q - mean) for q in queries) / len(queries)
            mean, spread = ahead @ mean, ahead @ spread @ ahead.T
            keys = [key * view.scaling for key in view.keys[head]]
            logits.append(torch.stack([key @ mean + key @ spread @ key / 2 for key in keys]))
        torch.testing.assert_close(ours[head], weighted(logits, view, head), rtol=0, atol=1e-12)


def test_by_drawing_queries(make, view_of):
    """Without rotation the logit is that of the mean of exp(query · key)."""
    view = view_of(queries=8, scaling=0.3)
    ours = make("kv", "expected").score(view)
    rng = torch.Generator().manual_seed(0)
    for head in range(2):
        logits = []
        for queries in view.queries[2 * head : 2 * head + 2]:
            factor = (queries - queries.mean(0)) / len(queries) ** 0.5  # its square is the covariance
            noise = torch.randn(400_000, len(queries), generator=rng, dtype=torch.float64)
            drawn = queries.mean(0) + noise @ factor
            logits.append((drawn @ view.keys[head].T * view.scaling).exp().mean(0).log())
        torch.testing.assert_close(ours[head], weighted(logits, view, head), rtol=0.02, atol=0)


def test_empty_rows_take_nothing(make, view_of):
    positions = torch.tensor([[-1, -1, 0, 2, 3], [0, 1, 2, 3, 4]])
    view, other = (view_of(positions=positions, rotate=ROTATE) for _ in range(2))
    other.keys[0, :2] = 1e4
    policy = make("kv", "expected")
    torch.testing.assert_close(policy.score(view), policy.score(other))
    assert not policy.score(view)[0, :2].any()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("expected:future=0", "'future' must be >= 1"),
        ("expected:budget=0", "'budget' must be >= 1"),
        ("expected:budget=8", "sinks=4, recent=32 .* do not fit into budget=8"),
        ("expected:mean=true", "no option 'mean'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
