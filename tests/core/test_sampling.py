"""The law against transformers' processors, and the draws against the law."""

import math
from collections import Counter

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from toolkit import Candidates, Pipeline, Sampler, Sampling
from toolkit.conformance.models import tiny
from toolkit.errors import MismatchError, SpecError
from toolkit.randomness import noise_of

LOGITS = st.lists(
    st.integers(-8, 8).map(lambda halves: halves / 2) | st.just(-math.inf), min_size=2, max_size=12
).filter(lambda row: max(row) > -math.inf)


def transformers_scores(sampling, logits):
    """What transformers' own list of processors makes of logits [R, V]."""
    config = GenerationConfig(
        do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p,
        top_k=sampling.top_k, min_p=sampling.min_p or None,
    )  # fmt: skip
    processors = tiny("llama")._get_logits_processor(config, input_ids_seq_length=1)
    return processors(torch.zeros(len(logits), 1, dtype=torch.long), logits)


@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.1, 0.6, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 99]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_scores_are_those_of_transformers(logits, temperature, top_k, top_p, min_p):
    """Bit by bit: ties at an edge, tokens that are excluded already, cuts that leave one token."""
    sampling = Sampling(temperature, top_k, top_p, min_p)
    rows = torch.tensor([logits, logits[::-1]])
    ours, theirs = sampling.scores(rows), transformers_scores(sampling, rows)
    assert torch.equal(ours, theirs)
    assert (ours > -math.inf).any(-1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_top_p_of_a_wide_law_is_that_of_transformers(dtype, spread):
    """Bit by bit, where the likeliest tokens decide, and where there are ties or the law is flat."""
    logits = spread * torch.randn(40, 600, generator=torch.Generator().manual_seed(2))
    for top_p in (0.3, 0.9, 0.99):
        sampling, rows = Sampling(0.8, top_p=top_p), logits.to(dtype).float()
        ours = torch.cat([sampling.scores(rows), *map(sampling.scores, rows.split(1))])
        assert torch.equal(ours, transformers_scores(sampling, rows).repeat(2, 1))


def test_top_p_sorts_only_in_doubt(monkeypatch):
    """Of equal probabilities, or of sums that rounding may bring to either side, a sort decides."""

    def refuse(*_):
        raise AssertionError("sorted")

    monkeypatch.setattr(torch.Tensor, "sort", refuse)
    clear, tied, near = ([0.5, 0.3, 0.15, 0.05], [0.5, 0.2, 0.2, 0.1], [0.5, 0.2, 0.1, 0.2])
    for row, top_p in ((clear, 0.7), (tied, 0.8), (clear, 0.01)):
        Sampling(1.0, top_p=top_p).scores(torch.tensor([row]).log())
    for row, top_p in ((tied, 0.6), (near, 0.5), (near, 0.50005), (clear, 0.99)):
        with pytest.raises(AssertionError, match="sorted"):
            Sampling(1.0, top_p=top_p).scores(torch.tensor([row]).log())


@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.1, 0.6, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 99]),
    top_p=st.sampled_from([0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_a_token_that_is_surely_kept_is_kept(logits, temperature, top_k, top_p, min_p):
    sampling, row = Sampling(temperature, top_k, top_p, min_p), torch.tensor(logits)
    kept = sampling.scores(row[None])[0] > -math.inf
    sure = torch.tensor([sampling.surely_keeps(row, token) for token in range(len(logits))])
    assert not (sure & ~kept).any()


FILTERS = [Sampling(0.8, top_p=0.9), Sampling(0.8, 20, 0.8), Sampling(1.0, 0, 0.95, 0.05)]
WIDE = 2 * torch.randn(40, 600, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_most_tokens_of_a_wide_law_need_no_doubt(sampling):
    """Which are kept is known of all but those at an edge, and how many without the whole law, too."""
    for row in WIDE[:10]:
        kept = sampling.scores(row[None])[0] > -math.inf
        sure = sum(sampling.surely_keeps(row, token) for token in range(600))
        assert kept.sum() - 2 <= sure <= kept.sum()
        assert sampling.count_kept(row.sort(descending=True).values.tolist()) == kept.sum()


@attrs.frozen
class Sure(Sampling):
    """Doubts nothing."""

    def surely_keeps(self, logits, token):
        return True


@pytest.mark.parametrize("kind", [Sampling, Sure])
@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_the_drawn_token_is_the_likeliest_that_can_be_drawn_after_the_noise(sampling, kind):
    sampler, same = Sampler(kind(*attrs.astuple(sampling)), 4), 0
    for depth, row in enumerate(WIDE):
        noise = noise_of(4, depth + 1, 600, row.device)
        noisy = (row / sampling.temperature).double() + noise
        kept = sampling.scores(row[None])[0] > -math.inf
        same += sampler.token(row, depth) == noisy.masked_fill(~kept, -math.inf).argmax()
    assert (same == len(WIDE)) == (kind is Sampling)


def test_the_order_of_processors_matters_and_is_theirs():
    """Top-p of what top-k has left, min-p of what top-p has left, all at the temperature."""
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])
    kept = [
        (Sampling(temperature, top_k, top_p, min_p).scores(logits) > -math.inf).sum().item()
        for temperature, top_k, top_p, min_p in (
            (1.0, 0, 0.9, 0.0), (2.0, 0, 0.9, 0.0), (2.0, 3, 0.9, 0.0), (2.0, 2, 0.6, 0.0),
            (1.0, 0, 1.0, 0.1), (2.0, 0, 1.0, 0.1),
        )
    ]  # fmt: skip
    assert kept == [3, 4, 3, 1, 3, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_logits_are_processed_in_float32_at_least(dtype):
    logits = torch.tensor([[1.0, 2.0, 4.0]], dtype=dtype)
    assert Sampling(0.3).scores(logits).dtype == max(torch.float32, dtype, key=lambda d: d.itemsize)
    law = Sampler(Sampling(0.3)).law(logits)
    assert law.dtype == torch.float64
    assert law.sum().item() == pytest.approx(1, abs=1e-12)


def test_at_temperature_0_the_law_is_the_argmax():
    logits = torch.tensor([[1.0, 4.0, 4.0], [7.0, 0.0, 7.0]])
    before = logits.clone()
    assert Sampler().law(logits).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert Sampler().token(logits[0], 5) == 1
    assert Sampler().perturbed(logits[0], 5) is not None
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature=-1.0: expected 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": 1e-9}, "temperature=1e-09"),
        ({"temperature": 1, "top_p": 0}, "top_p=0.0"),
        ({"temperature": 1, "top_p": math.nan}, "top_p=nan"),
        ({"temperature": 1, "top_k": -1}, "top_k=-1"),
        ({"temperature": 1, "top_k": 1.5}, "top_k=1.5"),
        ({"temperature": 1, "min_p": 1.5}, "min_p=1.5"),
        ({"top_k": 5}, "top_k=5 changes nothing at temperature 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, message):
    with pytest.raises(SpecError, match=message):
        Sampling(**values)


def test_settings_print_what_they_say():
    assert str(Sampling(0.8, top_p=0.9)) == "temperature=0.8,top_p=0.9"
    assert str(Sampling()) == "temperature=0"


def test_greedy_with_a_temperature_is_refused_and_the_default_fits():
    model = tiny("llama")
    with pytest.raises(MismatchError, match="sampler-match` fits any temperature"):
        Pipeline(model, verifier="greedy", sampling=Sampling(0.5))
    assert Pipeline(model, sampling=Sampling(0.5)).specs["verifier"] == "sampler-match"
    assert Pipeline(model).specs["verifier"] == "greedy"


def test_a_shaper_that_drops_draws_is_refused_and_those_that_fit_are_named(registry):
    keep = [n for n in registry.names("shaper") if not registry.find("shaper", n).prunes]
    assert {"chain", "distinct", "growmap", "slots"} <= {*keep}
    with pytest.raises(MismatchError, match=f"these keep them all: {', '.join(keep)}; `--verifier"):
        Pipeline(drafter="model", shaper="budget", verifier="swor", sampling=Sampling(1))


# Draws. Seeds are fixed, so each test gives the same result every time; a sampler with the right law
# would fail one of them for one choice of seeds in ten million.
DRAWS = 4000
LAW = torch.tensor([0.5, 0.3, 0.15, 0.05])


def chi_square(counts, law, draws=DRAWS):
    return sum((counts[x] - draws * p) ** 2 / (draws * p) for x, p in law.items())


TOO_FAR = {3: 35.3, 15: 62.9}  # the chi-square quantile of 1 − 1e−7, by degrees of freedom


def test_tokens_follow_the_law():
    law = dict(enumerate(LAW.tolist()))
    drawn = Counter(Sampler(Sampling(1.0), seed).token(LAW.log(), 0) for seed in range(DRAWS))
    assert chi_square(drawn, law) < TOO_FAR[3]
    skewed = {0: 0.45, 1: 0.35, 2: 0.15, 3: 0.05}
    assert chi_square(drawn, skewed) > TOO_FAR[3]  # enough draws to tell laws apart


def pairs(sampler_of):
    """Tokens at two successive positions, drawn in two steps, for many seeds."""
    return Counter(
        tuple(sampler_of(seed, position).token(LAW.log(), 0) for position in (7, 8))
        for seed in range(DRAWS)
    )


JOINT = {(a, b): float(LAW[a] * LAW[b]) for a in range(4) for b in range(4)}


def test_tokens_of_two_positions_are_independent():
    drawn = pairs(lambda seed, position: Sampler(Sampling(1.0), seed, position))
    assert chi_square(drawn, JOINT) < TOO_FAR[15]


def test_noise_that_is_frozen_for_a_request_is_caught():
    drawn = pairs(lambda seed, _: Sampler(Sampling(1.0), seed, 0))
    assert chi_square(drawn, JOINT) > TOO_FAR[15]


def test_seeds_do_not_run_into_each_other():
    """Seed s at position t is not seed s + 1 at position t − 1."""
    first = [Sampler(Sampling(1.0), 1, p).token(LAW.log(), 0) for p in range(200)]
    second = [Sampler(Sampling(1.0), 2, p - 1).token(LAW.log(), 0) for p in range(200)]
    assert 40 < sum(a == b for a, b in zip(first, second, strict=True)) < 110  # 73 expected


def test_a_position_is_what_counts():
    """The same token whether the position is a root's child or a node's deep in an earlier tree."""
    for position in range(20):
        samplers = [Sampler(Sampling(1.0), 5, position - depth) for depth in range(4)]
        tokens = {s.token(LAW.log(), depth) for depth, s in enumerate(samplers)}
        assert len(tokens) == 1


def test_a_draw_follows_its_weights_and_a_zero_is_never_drawn():
    weights = torch.tensor([0.0, 2.0, 1.2, 0.0, 0.6, 0.2, 0.0])
    sampler = Sampler(Sampling(1.0), 11, 3)
    drawn = Counter(sampler.draw(weights) for _ in range(DRAWS))
    law = {i: w / 4 for i, w in enumerate(weights.tolist()) if w}
    assert set(drawn) == set(law)
    assert chi_square(drawn, law) < TOO_FAR[3]


def test_acceptance_has_its_probability_and_0_and_1_are_sure():
    sampler = Sampler(Sampling(1.0), 11, 3)
    accepted = sum(sampler.accepts(0.3) for _ in range(DRAWS))
    assert abs(accepted - 0.3 * DRAWS) < 5.4 * math.sqrt(DRAWS * 0.21)
    assert not any(sampler.accepts(0.0) for _ in range(100))
    assert all(sampler.accepts(1.0) for _ in range(100))


CELLS = (torch.arange(12, dtype=torch.double) + 0.5) / 12  # a random number in each twelfth


def drawn_pairs(fixed, rounds):
    """Pairs drawn from (1/2, 1/4, 1/4) by every combination of twelfths: shares of all, and one call's
    candidates. All edges of that law, also without a token, are multiples of a twelfth."""
    law = torch.tensor([0.5, 0.25, 0.25], dtype=torch.double)
    uniforms = torch.cartesian_prod(*[CELLS] * 4).view(-1, 2, 2)[:, rounds]
    drawn = Candidates.draw(law.expand(len(uniforms), 3), uniforms, fixed)
    return {pair: n / len(uniforms) for pair, n in Counter(map(tuple, drawn.tokens)).items()}, drawn


@pytest.mark.parametrize("rounds", [[0, 1], [0, 0]], ids=["two rounds", "one round twice"])
@pytest.mark.parametrize("fixed", [0, 1])
def test_drawn_candidates_are_successive_draws_without_replacement(fixed, rounds):
    """The first is drawn by the law, the second by the law without the first. Where a round repeats the
    random numbers of the one before, it is not so."""
    shares, drawn = drawn_pairs(fixed, rounds)
    if fixed:
        assert shares == {(0, 1): 0.5, (0, 2): 0.5}
        return
    exact = {(0, 1): 1 / 4, (0, 2): 1 / 4, (1, 0): 1 / 6, (1, 2): 1 / 12, (2, 0): 1 / 6, (2, 1): 1 / 12}
    assert (shares == pytest.approx(exact, abs=1e-12)) == (rounds == [0, 1])
    assert drawn.laws[0].tolist() == [0.5, 0.25, 0.25]
    assert drawn.logprobs[0] == [math.log(drawn.laws[0, token]) for token in drawn.tokens[0]]


def test_what_cannot_be_drawn_is_no_candidate():
    """Nor where all the others are candidates already."""
    law = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]], dtype=torch.double)
    for fixed in (0, 1, 3):
        drawn = Candidates.draw(law, torch.ones(1, 3, 3, dtype=torch.double), fixed)
        assert sorted(drawn.tokens[0]) == [1, 3]
    smallest = torch.full((1, 3, 3), 2.0**-53, dtype=torch.double)
    assert Candidates.draw(law, smallest).tokens == [[1, 3]]
