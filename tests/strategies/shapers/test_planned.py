"""What is sent maximises expected tokens per millisecond; what does not pay is not drafted."""

import itertools
import random
import re
from math import exp, inf, log
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolkit import Candidates, Costs, TokenTree, Verdict
from toolkit.errors import SpecError

ROOT = TokenTree.root(0)
LIKELY = 0.01  # nodes of a worth below are left out
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
    """One that believes the drafter."""
    shaper = make("shaper", f"planned:nodes=12{options}")
    shaper._trust._weights = [0.0, 1.0, 0.0]
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
    """Every subtree of likely nodes below one, itself included, as the list of their worths."""
    below = [
        [[], *subtrees(after, (*path, token), worth * share)]
        for token, share in after(path).items()
        if worth * share >= LIKELY
    ]
    for choice in itertools.product(*below):
        yield [worth, *itertools.chain(*choice)]


def rate(worths, times, spent=0.0):
    """Tokens per millisecond."""
    return sum(worths) / (spent + times[len(worths) - 1])


def gain(worths, times, spent=0.0):
    """Tokens over what AR would give in the same time, which a request starts from."""
    return sum(worths) - (spent + times[len(worths) - 1]) / times[0]


def worths(tree):
    return list(map(exp, tree.path_logprobs))


@given(seed=st.integers(0, 999), shape=st.sampled_from([(2, 3), (3, 2), (1, 9)]), rises=RISES)
def test_with_a_convex_curve_it_is_the_best_of_all_trees(make, oracle_of, seed, shape, rises):
    times, after = convex(rises), law(seed, *shape)
    tree = planned(make, times).grow(ROOT, oracle_of(after))
    every = (tree for tree in subtrees(after) if len(tree) <= 12)
    best = max(gain(one, times) for one in every)
    assert gain(worths(tree), times) == pytest.approx(best)


@given(seed=st.integers(0, 999), rises=RISES)
def test_with_any_other_curve_as_well(make, oracle_of, seed, rises):
    """Flat here, steep there, even falling."""
    times, after = [1 + 4 * rise for rise in rises], law(seed, 2, 3)
    tree = planned(make, times).grow(ROOT, oracle_of(after))
    best = max(gain(one, times) for one in subtrees(after) if len(one) <= 12)
    assert gain(worths(tree), times) == pytest.approx(best)


@given(seed=st.integers(0, 999), shape=st.sampled_from([(2, 3), (3, 2), (1, 9)]), rises=RISES)
def test_it_settles_on_the_tree_of_the_greatest_rate(make, oracle_of, seed, shape, rises):
    """Where every step is like every other, the gain is greatest where the rate is."""
    times, after = convex(rises), law(seed, *shape)
    shaper, oracle = planned(make, times), oracle_of(after)
    for _ in range(300):
        tree = shaper.grow(ROOT, oracle)
    best = max(rate(one, times) for one in subtrees(after) if len(one) <= 12)
    assert rate(worths(tree), times) == pytest.approx(best, rel=2e-3)


def test_easy_steps_do_not_stop_early_nor_hard_ones_late(make, oracle_of):
    """Steps of two kinds: trees that maximise each step's own rate would give fewer tokens per ms."""
    times = convex([0.05] * 12)
    laws = [law(2, 1, 9), lambda path: {1: 0.95} if len(path) < 9 else {}]
    shaper = planned(make, times, 0.1)
    for _ in range(200):
        sent = [worths(shaper.grow(ROOT, oracle_of(after))) for after in laws]

    def chains(after):
        return [one for one in subtrees(after) if len(one) <= 12]

    def price(one):
        return times[len(one) - 1] + 0.1 * (len(one) - 1)

    def together(trees):
        return sum(map(sum, trees)) / sum(map(price, trees))

    best = max(together(pair) for pair in itertools.product(*map(chains, laws)))
    greedy = [max(chains(after), key=lambda one: sum(one) / price(one)) for after in laws]
    assert together(greedy) < 0.999 * best
    assert together(greedy) < together(sent) == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_the_brute_force_notices_a_tree_that_is_too_small(make, oracle_of, seed):
    times, after = convex([0.05] * 12), law(seed, 2, 3)
    tree = planned(make, times).grow(ROOT, oracle_of(after))
    assert len(tree) > 5
    tree = tree.best(4)
    best = max(gain(one, times) for one in subtrees(after) if len(one) <= 12)
    assert gain(worths(tree), times) < 0.99 * best


@given(top=st.floats(0.2, 0.9), level=st.floats(0.0, 1.0), rises=RISES)
def test_levels_are_drafted_while_they_pay(make, oracle_of, top, level, rises):
    """One child after any node, always as likely, and known to be: no other depth would be better."""
    times = convex(rises)
    shaper = planned(make, times, level, ",width=1,depth=11")
    shaper._children = [top]
    tree = shaper.grow(ROOT, oracle_of(lambda _: {1: top}))
    chain = [top**i for i in range(12) if top**i >= LIKELY]
    gains = [
        gain(chain[:n], times, level * (n - 1)) for n in range(1, len(chain) + 1)
    ]
    if not shaper._probing:
        assert gains[tree.depth] == pytest.approx(max(gains))


@pytest.mark.parametrize(("second", "kept"), [(0.0101, 2), (0.0099, 1)])
def test_nodes_below_a_hundredth_are_left_out(make, oracle_of, second, kept):
    """Though a pass costs the same with them."""
    tree = planned(make, [1.0] * 12).grow(ROOT, oracle_of(lambda _: {1: 0.05, 2: second}))
    assert tree.tokens == [0, 1, 2][: kept + 1]


@pytest.mark.parametrize(("top", "levels"), [(0.0099, 0), (0.05, 1), (0.2, 2), (0.33, 4), (0.5, 6)])
def test_worth_is_of_the_whole_path(make, oracle_of, top, levels):
    """The product along it, though a node on its own were likely enough."""
    tree = planned(make, [1.0] * 12).grow(ROOT, oracle_of(lambda _: {1: top}))
    assert tree.depth == levels
    assert top**levels >= LIKELY > top ** (levels + 1)


def test_rows_are_cut_where_they_stop_being_likely(make):
    """Each at its own length; tokens, parents and probabilities stay together."""
    rows = {0: ([7, 8, 9], [0.6, 0.3, 0.001]), 1: ([], []), 2: ([4, 5, 6], [0.5, 0.04, 0.03])}
    asked = []

    def expand(tree, frontier, k):
        found = [rows.get(node, ([], [])) for node in frontier]
        asked.append([(list(tokens), list(map(log, shares))) for tokens, shares in found])
        return Candidates([tokens for tokens, _ in asked[-1]], [shares for _, shares in asked[-1]])

    tree = planned(make, [1.0] * 12).grow(ROOT, expand)
    assert tree.tokens == [0, 7, 8, 4, 5]
    assert tree.parents == [-1, 0, 0, 2, 2]
    assert tree.logprobs == [0.0, log(0.6), log(0.3), log(0.5), log(0.04)]
    assert asked[0] == [([7, 8, 9], [log(0.6), log(0.3), log(0.001)])]


def test_the_likeliest_of_a_level_are_expanded_wherever_they_stand(make, oracle_of):
    """Of path probabilities 0.25, 0.2, 0.405 and 0.0405 the first and the third."""
    after = {(0,): {1: 0.5, 2: 0.45}, (0, 1): {3: 0.5, 4: 0.4}, (0, 2): {5: 0.9, 6: 0.09}}
    oracle = oracle_of(lambda path: after.get(path, {}))
    planned(make, [1.0] * 12, options=",width=2").grow(ROOT, oracle)
    assert oracle.frontiers == [[0], [1, 2], [3, 5]]


@given(st.lists(st.floats(0.0, 1.0), max_size=9).map(lambda row: sorted(row, reverse=True)))
def test_a_drafter_is_believed_at_first(make, shares):
    """But for what it likes best, which is likelier than it says; those that are likely at all."""
    logprobs = [log(share) if share else -inf for share in shares]
    believed = [
        share / (share + (1 - share) / (exp(1) if rank == 0 else 1)) if share else 0.0
        for rank, share in enumerate(shares)
    ]
    assume(all(abs(share - LIKELY) > 2e-4 for share in believed))  # rounding decides there
    likely = [share for share in believed if share >= LIKELY]
    assert make("shaper", "planned")._trust(1.0, logprobs, LIKELY) == pytest.approx(likely, abs=3e-4)


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
            if tree.parents[node] == path[-1] and right():
                path.append(node)
        shaper.observe(tree, Verdict(path, 0))
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


@pytest.mark.parametrize("level", [0.0001, 0.003, 0.02])
@pytest.mark.parametrize("share", [0.003, 0.3, 0.9])
def test_it_recovers_however_cheap_a_first_node_is(make, oracle_of, level, share):
    """A probe sends what it drafted, likely or not: else nothing would ever be learned again."""
    shaper = planned(make, [1.0] * 12, level)
    oracle = oracle_of(lambda _: {1: share})
    decode(shaper, oracle, lambda: False, 2000)
    oracle.frontiers.clear()
    decode(shaper, oracle, lambda: False, 500)
    assert len(oracle.frontiers) < 100  # asked now and then
    right = decode(shaper, oracle, lambda: True, 1000)
    assert min(right[-20:]) > 1


def test_what_children_are_like_is_weighed_by_what_they_are_worth(make):
    """Of a level of worth 0.9 and 0.1, whose first node alone has a child, as likely as not."""
    shaper = planned(make, [1.0] * 12)
    shaper._children, shaper._least = [0.0] * 4, 0.0
    shaper._keep_likely(Candidates([[1], []], [[log(0.5)], []]), [0.9, 0.1])
    assert shaper._children == pytest.approx([0.1 * 0.45, 0.0, 0.0, 0.0])


def test_a_level_is_no_wider_than_pays(make, oracle_of):
    """The second node would make the level cost more than its children are worth."""
    shaper = make("shaper", "planned:nodes=12")
    draft = ((0.01, 5.0),) * 2
    shaper.plan(Costs((1, 2), (1, 12), ((1.0, 1.0),) * 2, (1, 2), draft), 1)
    oracle = oracle_of(lambda path: {1: 0.6, 2: 0.3} if len(path) < 3 else {})
    shaper.grow(ROOT, oracle)
    assert oracle.frontiers[:2] == [[0], [1]]


def test_one_node_needs_no_drafter(make, oracle_of):
    shaper, oracle = make("shaper", "planned:nodes=1"), oracle_of(lambda _: {1: 0.9})
    shaper.plan(costs([1.0, 1.0]), 1)
    assert len(shaper.grow(ROOT, oracle)) == 1
    assert not oracle.frontiers


@pytest.mark.parametrize("logprob", [800.0, inf, 1e-6])
def test_nothing_is_likelier_than_certain(make, logprob):
    expand = lambda tree, frontier, k: Candidates([[1]] * len(frontier), [[logprob]] * len(frontier))  # noqa: E731
    tree = planned(make, [1.0] * 12).grow(ROOT, expand)
    assert set(tree.logprobs) == {0.0}


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
    assert shaper._trust(1.0, [log(0.6)], LIKELY) == pytest.approx([truth], abs=0.15)


def test_what_was_learned_is_kept_in_a_file(make, oracle_of, tmp_path):
    spec = f"planned:nodes=12,trust={tmp_path / 'pair.json'}"
    sure = [log(0.6)]
    before = make("shaper", spec)
    assert before._trust(1.0, sure, LIKELY) == pytest.approx([1 / (1 + exp(-1) * 0.4 / 0.6)])
    decode(before, oracle_of(lambda _: {1: 0.6}), lambda: False, 40)
    after = make("shaper", spec)
    assert [0.0] < after._trust(1.0, sure, LIKELY) == before._trust(1.0, sure, LIKELY) < [0.5]
    assert [path.name for path in tmp_path.iterdir()] == ["pair.json"]
    decode(after, oracle_of(lambda _: {1: 0.6}), lambda: True, 200)
    assert make("shaper", spec)._trust(1.0, sure, LIKELY) > before._trust(1.0, sure, LIKELY)


@given(data=st.data())
def test_a_damaged_file_is_refused_by_name(make, oracle_of, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("trust") / "pair.json"
    decode(make("shaper", f"planned:trust={path}"), oracle_of(lambda _: {1: 0.6}), bool, 8)
    whole = path.read_text()
    path.write_text(data.draw(st.one_of(
        st.sampled_from([
            "", "{}", "[]", "3", whole.replace('"weights": [', '"weights": [[0, 1, 1], ['),
            re.sub(r'"weights": .*?\]', '"weights": 1', whole),
            re.sub(r'"weights": \[[^,]*', '"weights": [31', whole),
            '{"weights": 1}', whole.replace("planned", "other"),
            whole.replace("[[", "[[-"), whole.replace("[[", "[[["),
            re.sub(r"\[\[[^,]*", "[[1e999", whole),
        ]),
        st.integers(0, len(whole) - 1).map(lambda end: whole[:end]),
    )))
    with pytest.raises(SpecError, match=r"planned.*pair\.json.* is damaged, or no file that"):
        make("shaper", f"planned:trust={path}")


def test_a_folder_that_is_not_there_is_refused(make, tmp_path):
    for folder in (tmp_path / "none", Path("/proc")):
        with pytest.raises(SpecError, match="no file can be written to"):
            make("shaper", f"planned:trust={folder / 'pair.json'}")


def test_a_folder_that_goes_away_costs_a_warning_and_no_request(make, oracle_of, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    shaper = make("shaper", f"planned:trust={folder / 'pair.json'}")
    folder.rmdir()
    with pytest.warns(UserWarning, match=r"pair\.json was not written") as seen:
        decode(shaper, oracle_of(lambda _: {1: 0.6}), bool, 80)
    assert len(seen) == 1


def test_costs_follow_the_length(make):
    shaper = make("shaper", "planned:nodes=4")
    curves = ((1.0, 1.0), (2.0, 2.0))
    shaper.plan(Costs((100, 200), (1, 4), curves, (1, 16), curves), 100)
    assert shaper._pass_ms == [1.0] * 4
    for _ in range(100):
        shaper.observe(ROOT, Verdict([0], 0))
    assert shaper._pass_ms == pytest.approx([1.64] * 4)  # looked up every 64 tokens


def test_no_candidates_end_the_tree(make, oracle_of):
    tree = planned(make, [1.0] * 12).grow(ROOT, oracle_of(lambda _: {}))
    assert len(tree) == 1


@given(nodes=st.integers(1, 3), width=st.integers(1, 3), seed=st.integers(0, 99))
def test_never_more_nodes_than_declared(make, oracle_of, nodes, width, seed):
    shaper = make("shaper", f"planned:nodes={nodes},width={width}")
    shaper.plan(costs([1.0, 5.0, 9.0], 1.0), 1)
    sizes = decode(shaper, oracle_of(law(seed, 3, 3)), lambda: False, 9)
    assert max(sizes) <= nodes
