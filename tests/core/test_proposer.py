"""Candidates by a drafter's logits: in the order that the verifier's proof covers."""

import math
from collections import Counter

import attrs
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, SuppressTokensLogitsProcessor

from toolkit import Candidates, Sampler, Sampling, TokenTree
from toolkit.engine import Strategies, decode
from toolkit.logits_processing import PathProcessor
from toolkit.proposer import Proposer

LOGITS = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
ROOT = TokenTree.root(7)
WHERE = {"position": 5, "vocabulary": 4}


@pytest.mark.parametrize("how", ["fixed", "matched", "sampled", "iid"])
def test_at_temperature_0_they_are_the_likeliest(how):
    found = Proposer(how).candidates(ROOT, [0], LOGITS, 3, **WHERE)
    assert found.tokens == [[0, 1, 2]]
    assert found.laws is None


def test_a_matched_candidate_of_the_targets_own_logits_is_the_drawn_token():
    """Also if the drafter knows fewer tokens, as long as the drawn one is among them."""
    sampling, drawn = Sampling(1.3, top_k=3), Counter()
    for seed in range(200):
        token = Sampler(sampling, seed, 5).token(LOGITS[0], 0)
        for logits in (LOGITS, LOGITS[:, :3]):
            found = Proposer("matched", sampling, seed).candidates(ROOT, [0], logits, 2, **WHERE)
            assert found.tokens[0][0] == token
        drawn[token] += 1
    assert len(drawn) == 3


FILTERS = [Sampling(0.8, top_p=0.9), Sampling(1.0, 50, 0.95, 0.05)]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_matched_candidates_are_those_that_can_be_drawn(sampling):
    """The first is the target's token where it is one of the few that are looked at, so mostly."""
    rows, same = 3 * torch.randn(50, 600, generator=torch.Generator().manual_seed(3)), 0
    for seed, row in enumerate(rows):
        found = Proposer("matched", sampling, seed).candidates(
            ROOT, [0], row[None], 3, position=5, vocabulary=600
        )
        kept = sampling.scores(row[None])[0] > -math.inf
        assert kept[found.tokens[0]].all()
        assert found.logprobs[0] == sorted(found.logprobs[0], reverse=True)
        assert sum(map(math.exp, found.logprobs[0])) <= 1 + 1e-9
        same += found.tokens[0][0] == Sampler(sampling, seed, 5).token(row, 0)
    assert same >= 47


def test_matched_candidates_are_confident_as_at_temperature_0():
    """Their log-probabilities grow with the distance to the next token, in the logits' own units."""
    found = Proposer("matched", Sampling(1e-3)).candidates(ROOT, [0], 8 * LOGITS, 4, **WHERE)
    greedy = Proposer().candidates(ROOT, [0], 8 * LOGITS, 4, **WHERE)
    assert found.tokens == greedy.tokens
    assert found.logprobs[0] == pytest.approx(greedy.logprobs[0], abs=0.05)


@pytest.mark.parametrize("how", ["fixed", "matched", "sampled", "iid"])
def test_processors_see_the_targets_tokens_where_the_drafter_knows_fewer(how):
    """So they may read and name any token: here all but one are suppressed, which the drafter lacks."""
    penalty, only = RepetitionPenaltyLogitsProcessor(2.0), SuppressTokensLogitsProcessor([0, 1, 2])
    for processor, token in ((penalty, 1), (only, 3)):
        process = PathProcessor([3, 7, 0], processor)
        proposer = Proposer(how, Sampling(0.1), process=process)
        found = proposer.candidates(TokenTree.root(0), [0], LOGITS[:, :3], 1, **WHERE)
        assert found.tokens == [[token]]


def test_fixed_candidates_come_first_and_are_marked():
    for seed in range(50):
        proposer = Proposer("sampled", Sampling(1.0), seed)
        found = proposer.candidates(ROOT, [0], LOGITS.flip(1), 4, fixed=2, **WHERE)
        assert found.tokens[0][:2] == [3, 2]
        tree = ROOT.grow([0], found)
        assert tree.fixed == {1, 2}
        assert tree.subtree([0, 2, 3]).fixed == {1}


def test_draws_depend_on_the_path_and_the_position_alone():
    proposer = Proposer("sampled", Sampling(1.0), 3)
    tree = ROOT.grow([0], proposer.candidates(ROOT, [0], LOGITS, 2, **WHERE))
    both = proposer.candidates(tree, [1, 2], LOGITS.expand(2, 4), 4, **WHERE)
    path = tree.subtree([0, 2])
    alone = proposer.candidates(path, [1], LOGITS, 4, **WHERE)
    assert both.tokens[1] == alone.tokens[0]
    drawn = {
        tuple(proposer.candidates(path, [1], LOGITS, 4, position=n, vocabulary=4).tokens[0])
        for n in range(20)
    }
    assert len(drawn) > 5


def test_independent_draws_repeat():
    proposer = Proposer("iid", Sampling(1.0), 3)
    drawn = [proposer.candidates(ROOT, [0], LOGITS, 3, position=n, vocabulary=4) for n in range(50)]
    assert any(len({*found.tokens[0]}) < 3 for found in drawn)
    counts = Counter(found.tokens[0][1] for found in drawn)
    assert counts[0] > counts[3]


@attrs.frozen
class OffByOne(Proposer):
    """Uses the noise of the next position."""

    def candidates(self, *rest, position, **how):
        return Proposer.candidates(self, *rest, position=position + 1, **how)


@pytest.mark.parametrize("proposer", [Proposer, OffByOne])
def test_a_drafter_that_is_the_target_is_accepted_whole_when_sampling(
    make, hash_model, hash_session, hash_runtime, proposer
):
    model, sampling = hash_model(), Sampling(1.5)
    session = hash_session(model)
    runtime = hash_runtime(model, 11, proposer=proposer("matched", sampling, 4), target=session)
    strategies = Strategies(
        make("drafter", "model:small"), make("shaper", "chain:4"), make("verifier", "sampler-match")
    )
    events = decode(
        session, runtime, strategies, [1, 2, 3], max_new_tokens=51, ends=lambda token: False,
        sampling=sampling, seed=4,
    )  # fmt: skip
    accepted = [event.step.accepted for event in events if event.step]
    assert (accepted == [4] * 10) == (proposer is Proposer)


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(0.7, top_p=0.9)], ids=str)
def test_nodes_of_two_depths_are_drafted_for_with_the_noise_of_their_own_positions(sampling):
    tree = TokenTree.root(1).grow([0], Candidates([[2]], [[-0.5]]))
    row, proposer = torch.zeros(1, 9), Proposer("matched", sampling, 3)

    def first(nodes):
        logits = row.expand(len(nodes), -1)
        found = proposer.candidates(tree, nodes, logits, 1, position=4, vocabulary=9)
        return [token for (token,) in found.tokens]

    assert first([0, 1]) == first([0]) + first([1])
    assert first([0]) != first([1])
