"""`typical`: the published threshold, declared lossy."""

import math

import pytest
import torch

from toolkit import Sampler, Sampling
from toolkit.conformance.enumeration import language


def test_a_node_is_accepted_above_the_threshold(make, plant):
    law = torch.tensor([0.55, 0.25, 0.12, 0.05, 0.03])
    entropy = -float((law * law.log()).sum())
    least = min(0.09, 0.3 * math.exp(-entropy))
    assert 0.05 < least < 0.12
    tree = plant([(0, 3, -1.0), (0, 2, -1.0), (2, 4, -1.0), (2, 0, -1.0), (4, 3, -1.0)])
    logits = law.log().expand(len(tree), -1)
    verdict = make("verifier", "typical").judge(tree, logits, Sampler(Sampling(1.0), 5))
    assert verdict.path == [0, 2, 4]
    assert verdict.bonus == Sampler(Sampling(1.0), 5).token(logits[4], 2)


def test_it_is_lossy_and_says_so(make, law_of, planted_at_every_step):
    assert make("verifier", "typical").exactness == "lossy"
    grow = planted_at_every_step((0, 2), (0, 1))
    assert law_of("typical", language(1, 3), grow)[0] > 0.05


@pytest.mark.parametrize("spec", ["typical", "greedy"])
def test_at_temperature_0_it_gives_greedy_tokens(make, plant, spec):
    tree = plant([(0, 1, -1.0), (0, 2, -1.0), (2, 0, -1.0)])
    logits = torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 4.0, 2.0]])
    verdict = make("verifier", spec).judge(tree, logits, Sampler())
    assert (verdict.path, verdict.bonus) == ([0, 2, 3], 1)
