"""What is sent maximises expected tokens per millisecond; what does not pay is not drafted."""

import itertools
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Costs, TokenTree, Verdict
from toolkit.errors import SpecError

ROOT = TokenTree.root(torch.tensor(0))
RISES = st.lists(st.floats(0.0, 0.2), min_size=12, max_size=12)


def costs(passes, level=0.0):
    """Costs of passes of 1, 2, … nodes, and of a level of any width."""
    passes = tuple(passes)
    sizes = tuple(range(1, len(passes) + 1))
    return Costs((1, 2), sizes, (passes, passes), (1, 16), ((level, level), (level, level)))


def convex(rises):
    """Times, of 1 and more, that rise by more and more."""
    return [1 + time for time in itertools.accumulate(sorted(rises))]


def planned(make, times, level=0.0, options=""):
    shaper = make("shaper", f"planned:nodes=12{options}")
    shaper.plan(costs(times, level), 1)
    return shaper


def law(seed, branches, depth):
    """`branches` candidates after any path of up to `depth` tokens, of random probabilities."""

    def after(path):
        if len(path) > depth:
            return {}
        rng = random.Random(f"{seed} {path}")
        shares = sorted((rng.random() + 0.01 for _ in range(branches + 1)), reverse=True)
        return {token: share / sum(shares) for token, share in enumerate(shares[:branches])}

    return after


def subtrees(after, path=(0,), worth=1.0):
    """Every subtree below a node, itself included, as the list of its nodes' worths."""
    below = [
        [[], *subtrees(after, (*path, token), worth * share)]
        for token, share in after(path).items()
    ]
    for choice in itertools.product(*below):
        yield [worth, *itertools.chain(*choice)]


def rate(worths, times, spent=0.0):
    return sum(worths) / (spent + times[len(worths) - 1])


def worths(tree):
    return tree.path_logprobs.exp().tolist()


@given(seed=st.integers(0, 999), shape=st.sampled_from([(2, 3), (3, 2), (1, 9)]), rises=RISES)
def test_with_a_convex_curve_it_is_the_best_of_all_trees(make, oracle_of, seed, shape, rises):
    times, after = convex(rises), law(seed, *shape)
    tree = planned(make, times).grow(ROOT, oracle_of(after))
    every = (tree for tree in subtrees(after) if len(tree) <= 12)
    best = max(rate(one, times) for one in every)
    assert rate(worths(tree), times) == pytest.approx(best)


@given(seed=st.integers(0, 999), rises=RISES)
def test_with_any_other_curve_as_well(make, oracle_of, seed, rises):
    """Flat here, steep there, even falling."""
    times, after = [1 + 4 * rise for rise in rises], law(seed, 2, 3)
    tree = planned(make, times).grow(ROOT, oracle_of(after))
    best = max(rate(one, times) for one in subtrees(after) if len(one) <= 12)
    assert rate(worths(tree), times) == pytest.approx(best)


def test_the_brute_force_notices_a_tree_that_is_too_small(make, oracle_of):
    times, after = convex([0.05] * 12), law(1, 2, 3)
    tree = planned(make, times).grow(ROOT, oracle_of(after))
    assert len(tree) > 5
    tree = tree.best(4)
    best = max(rate(one, times) for one in subtrees(after) if len(one) <= 12)
    assert rate(worths(tree), times) < 0.99 * best


@given(top=st.floats(0.2, 0.9), level=st.floats(0.0, 1.0), rises=RISES)
def test_levels_are_drafted_while_they_pay(make, oracle_of, top, level, rises):
    """One child after any node, always as likely, and known to be: no other depth would be better."""
    times = convex(rises)
    shaper = planned(make, times, level, ",width=1,depth=11")
    shaper._children[:] = top
    tree = shaper.grow(ROOT, oracle_of(lambda _: {1: top}))
    rates = [
        rate([top**i for i in range(n)], times, level * (n - 1)) for n in range(1, 13)
    ]
    levels = int(tree.depth)
    if not shaper._probing:
        assert rates[levels] == pytest.approx(max(rates))


def test_it_sends_whole_steps(make, oracle_of):
    times = [1.0] * 4 + [1.2] * 4 + [1.4] * 4
    for seed in range(20):
        tree = planned(make, times).grow(ROOT, oracle_of(law(seed, 3, 3)))
        assert len(tree) % 4 == 0


def decode(shaper, oracle, right, steps):
    """Steps of trees, verdicts where `right(path)` says whether a node is accepted; sizes sent."""
    sizes = []
    for _ in range(steps):
        tree, path = shaper.grow(ROOT, oracle), [0]
        sizes.append(len(tree))
        for node in range(1, len(tree)):
            if int(tree.parents[node]) == path[-1] and right():
                path.append(node)
        shaper.observe(tree, Verdict(torch.tensor(path), torch.tensor(0)))
    return sizes


def test_what_never_pays_is_only_probed_and_what_pays_again_is_drafted(make, oracle_of):
    shaper = planned(make, [1 + 0.2 * n for n in range(12)], 0.2)
    sure = oracle_of(lambda _: {1: 0.9})
    assert decode(shaper, sure, lambda: True, 20)[-1] > 3
    wrong = decode(shaper, sure, lambda: False, 400)
    assert wrong[:3] != [1, 1, 1]  # it takes a while to learn
    assert sum(size > 1 for size in wrong[200:]) <= 4
    assert set(wrong[200:]) == {1, 2}  # a probe is one node
    right = decode(shaper, sure, lambda: True, 150)
    assert min(right[-20:]) > 3


def test_an_idle_step_asks_the_drafter_nothing(make, oracle_of):
    shaper = planned(make, [1.0 + n for n in range(12)], 1.0)
    oracle = oracle_of(lambda _: {1: 0.9})
    sizes = decode(shaper, oracle, lambda: False, 100)
    assert len(oracle.frontiers) < 15
    assert sum(size == 1 for size in sizes) > 85


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.95])
def test_probabilities_are_calibrated_by_verdicts(make, oracle_of, truth):
    rng = random.Random(0)
    shaper = planned(make, [1.0] * 12)
    decode(shaper, oracle_of(lambda _: {1: 0.6}), lambda: rng.random() < truth, 200)
    believed = float(shaper._trust(torch.tensor([[0.6]]).log().double().numpy())[0, 0])
    assert believed == pytest.approx(truth, abs=0.15)


def test_what_was_learned_is_kept_in_a_file(make, oracle_of, tmp_path):
    spec = f"planned:nodes=12,trust={tmp_path / 'pair.json'}"
    sure = np.log([[0.6]])
    before = make("shaper", spec)
    assert before._trust(sure) == pytest.approx(0.6)
    decode(before, oracle_of(lambda _: {1: 0.6}), lambda: False, 40)
    after = make("shaper", spec)
    assert after._trust(sure) == before._trust(sure) < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["pair.json"]
    decode(after, oracle_of(lambda _: {1: 0.6}), lambda: True, 200)
    assert make("shaper", spec)._trust(sure) > before._trust(sure)


@given(data=st.data())
def test_a_damaged_file_is_refused_by_name(make, oracle_of, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("trust") / "pair.json"
    decode(make("shaper", f"planned:trust={path}"), oracle_of(lambda _: {1: 0.6}), bool, 8)
    whole = path.read_text()
    path.write_text(data.draw(st.one_of(
        st.sampled_from([
            "", "{}", "[]", "3", '{"weights": 1}', whole.replace("planned", "other"),
            whole.replace("[[", "[[-"), whole.replace("[[", "[[["),
            re.sub(r"\[\[[^,]*", "[[1e999", whole),
        ]),
        st.integers(0, len(whole) - 1).map(lambda end: whole[:end]),
    )))
    with pytest.raises(SpecError, match=r"planned.*pair\.json.* is damaged, or no file that"):
        make("shaper", f"planned:trust={path}")


def test_a_folder_that_is_not_there_is_refused(make, tmp_path):
    with pytest.raises(SpecError, match="there is no such folder"):
        make("shaper", f"planned:trust={tmp_path / 'none' / 'pair.json'}")


def test_costs_follow_the_length(make):
    shaper = make("shaper", "planned:nodes=4")
    curves = ((1.0, 1.0), (2.0, 2.0))
    shaper.plan(Costs((100, 200), (1, 4), curves, (1, 16), curves), 100)
    assert shaper._passes.tolist() == [1.0] * 4
    for _ in range(100):
        shaper.observe(ROOT, Verdict(torch.tensor([0]), torch.tensor(0)))
    assert shaper._passes.tolist() == pytest.approx([1.64] * 4)  # looked up every 64 tokens


def test_no_candidates_end_the_tree(make, oracle_of):
    tree = planned(make, [1.0] * 12).grow(ROOT, oracle_of(lambda _: {}))
    assert len(tree) == 1


@given(nodes=st.integers(1, 3), width=st.integers(1, 3), seed=st.integers(0, 99))
def test_never_more_nodes_than_declared(make, oracle_of, nodes, width, seed):
    shaper = make("shaper", f"planned:nodes={nodes},width={width}")
    shaper.plan(costs([1.0, 5.0, 9.0], 1.0), 1)
    sizes = decode(shaper, oracle_of(law(seed, 3, 3)), lambda: False, 9)
    assert max(sizes) <= nodes
