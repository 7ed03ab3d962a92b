"""TOVA: scores are the attention of the last query, mean over the heads of a layer."""

import pytest
import torch

from toolkit.errors import SpecError


@pytest.mark.parametrize("queries", [1, 5])
def test_the_last_querys_mean(make, view_of, weights_of, queries):
    view = view_of(queries=queries)
    ours = make("kv", "tova").score(view)
    expected = weights_of(view)[:, :, -1].reshape(-1, 12).mean(0)
    torch.testing.assert_close(ours, expected.expand(2, -1), rtol=0, atol=1e-12)
    assert torch.equal(ours[0], ours[1])  # or heads might keep different positions
    assert float(ours[0].sum()) == pytest.approx(1.0)


def test_earlier_queries_and_scores_do_not_count(make, view_of):
    view, other = view_of(), view_of(carry=torch.ones(2, 12).double())
    other.queries = other.queries.clone()
    other.queries[:, :-1] = 7.0
    assert torch.equal(make("kv", "tova").score(view), make("kv", "tova").score(other))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("tova:budget=0", "'budget' must be >= 1"),
        ("tova:epoch=0", "'epoch' must be >= "),
        ("tova:budget=4,sinks=4", "sinks=4, recent=1 .* do not fit into budget=4"),
        ("tova:mean=true", "no option 'mean'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
