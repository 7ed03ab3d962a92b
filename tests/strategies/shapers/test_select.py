"""A bandit over shapers: what it plays, what it learns, and its regret in a simulation."""

import random
from unittest.mock import patch

import pytest

from toolkit import Candidates, Costs, TokenTree, Verdict
from toolkit.errors import SpecError
from toolkit.level_plan import expected_tokens

ROOT = TokenTree.root(0)
COSTS = Costs((1, 1000), (1, 64), ((1.0, 1.63),) * 2, (1, 16), ((0.1, 0.16),) * 2)
ARMS = "[chain:k=1]+[chain:k=4]+[chain:k=12]"


def expand(tree, frontier, k):
    return Candidates([[1]] * len(frontier), [[-0.1]] * len(frontier))


def play(shaper, steps, acceptance, seed=0):
    """Decode against a target that accepts each draft with one probability; returns the total tokens
    and cost, and the lengths of the trees."""
    rng, tokens, cost, sizes = random.Random(seed), 0, 0.0, []
    shaper.plan(COSTS, 10)
    for _ in range(steps):
        tree = shaper.grow(ROOT, expand)
        path = [0]
        while len(path) < len(tree) and rng.random() < acceptance:
            path.append(len(path))
        shaper.observe(tree, Verdict(path, 0))
        tokens += len(path)
        cost += 1 + 0.01 * (len(tree) - 1) + 0.1 * (len(tree) - 1)
        sizes.append(len(tree))
    return tokens, cost, sizes


def regret(make, policy, acceptance, steps):
    """Tokens that were lost in the same time, against the best single arm."""
    tokens, cost, _ = play(make("shaper", f"select:arms={ARMS},policy={policy}"), steps, acceptance)
    best = max(expected_tokens(k, acceptance) / (1 + 0.11 * k) for k in (1, 4, 12))
    return best * cost - tokens


def uniform(self):
    return self._rng.randrange(len(self._arms)), 1 / len(self._arms)


@pytest.mark.parametrize("acceptance", [0.15, 0.97])
@pytest.mark.parametrize("policy", ["ucb", "expweights"])
def test_regret_falls_behind_that_of_playing_at_random(make, registry, policy, acceptance):
    steps = 3000
    learnt = regret(make, policy, acceptance, steps)
    with patch.object(registry.find("shaper", "select"), "_choose", uniform):
        unlearnt = regret(make, policy, acceptance, steps)  # the control
    assert learnt < 0.5 * unlearnt
    assert unlearnt > 0.1 * steps


def test_ucb_tries_every_arm_and_settles_on_the_best(make):
    sizes = play(make("shaper", f"select:arms={ARMS}"), 600, 0.97)[2]
    assert {2, 5, 13} <= {*sizes[:3]}
    assert sizes[-200:].count(13) > 150


def test_constant_plays_the_first_arm(make):
    assert {*play(make("shaper", f"select:arms={ARMS},policy=constant"), 20, 0.5)[2]} == {2}


@pytest.mark.parametrize("policy", ["ucb", "expweights"])
def test_a_request_repeats(make, policy):
    spec = f"select:arms={ARMS},policy={policy}"
    assert play(make("shaper", spec), 100, 0.7)[2] == play(make("shaper", spec), 100, 0.7)[2]


def test_it_may_grow_as_many_nodes_as_its_largest_arm(make):
    assert make("shaper", "select:arms=[chain:k=3]+[budget:nodes=30]").nodes == 30


def test_each_arm_observes_its_own_trees_only(make, registry):
    told = []
    chain = registry.find("shaper", "chain")
    with patch.object(chain, "observe", lambda self, tree, verdict: told.append((self.k, len(tree)))):
        play(make("shaper", f"select:arms={ARMS}"), 50, 0.7)
    assert len(told) == 50
    assert all(nodes == k + 1 for k, nodes in told)


@pytest.mark.parametrize(
    ("spec", "said"),
    [("select:policy=best", "policy"), ("select:arms=[ngram]", "no shaper called 'ngram'")],
)
def test_wrong_options_are_refused(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("shaper", spec)
