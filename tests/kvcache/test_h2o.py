"""H2O: attention is accumulated over all committed queries, across decisions."""

import pytest
import torch

from toolkit.errors import SpecError

PROMPT, EPOCH = 8, 4
KEPT = torch.tensor([[0, 1, 3, 4, 6, 7], [0, 2, 3, 4, 5, 7]])


@pytest.fixture
def two(view_of, weights_of):
    """A policy's scores at the end of the prompt and at the next boundary, when some rows of the
    prompt are gone, and the attention mass of each row so far."""

    def scored(policy):
        first = view_of(PROMPT, PROMPT)
        start = policy.score(first)
        new = torch.arange(PROMPT, PROMPT + EPOCH).expand(2, -1)
        carry = torch.cat([start.gather(1, KEPT), torch.zeros(2, EPOCH).double()], 1)
        second = view_of(
            queries=EPOCH, seed=1, positions=torch.cat([KEPT, new], 1), carry=carry
        )
        before = weights_of(first).sum((1, 2))
        after = weights_of(second).sum((1, 2))
        after[:, : KEPT.shape[1]] += before.gather(1, KEPT)
        return (start, before, first), (policy.score(second), after, second)

    return scored


def test_attention_adds_up_over_boundaries(make, two):
    for ours, mass, _ in two(make("kv", f"h2o:epoch={EPOCH}")):
        torch.testing.assert_close(ours, mass, rtol=0, atol=1e-12)


def test_mean_is_per_query_that_could_see_it(make, two):
    for ours, mass, view in two(make("kv", f"h2o:epoch={EPOCH},mean=true")):
        torch.testing.assert_close(ours, mass / (view.now - view.positions), rtol=0, atol=1e-12)


def test_the_sum_forgets_nothing(make, view_of):
    """The carry alone, where the epoch's queries do not count."""
    carry = torch.rand(2, 12).double()
    policy = make("kv", "h2o")
    with_carry, without = policy.score(view_of(carry=carry)), policy.score(view_of())
    torch.testing.assert_close(with_carry - without, carry)


def test_heads_are_scored_apart(make, view_of):
    assert not torch.allclose(*make("kv", "h2o").score(view_of()))


def test_small_enough_to_evict_on_an_ordinary_run(make):
    policy = make("kv", "h2o")
    assert (policy.budget, policy.recent, policy.sinks, policy.epoch) == (128, 32, 4, 16)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("h2o:budget=0", "'budget' must be >= 1"),
        ("h2o:recent=-1", "'recent' must be >= 0"),
        ("h2o:epoch=0", "'epoch' must be >= "),
        ("h2o:budget=16", "sinks=4, recent=32 .* do not fit into budget=16"),
        ("h2o:mean=perhaps", "mean"),
        ("h2o:heavy=3", "no option 'heavy'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
