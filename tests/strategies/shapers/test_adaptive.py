"""DynaTree's rule, term by term, and against a slow reading of it."""

import random
from copy import deepcopy
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, TokenTree, Verdict
from toolkit.errors import SpecError

ROOT = TokenTree.root(0)
OPEN = "stop=0,deep=0,prune=0,nodes=999"


def grown(make, oracle_of, options, after):
    expand = oracle_of(after)
    return make("shaper", f"adaptive:{options}").grow(ROOT, expand), expand.frontiers


def sure(p, count=4):
    """One candidate of probability p, the others share what is left."""
    return {0: p} | {t: min(p, (1 - p) / (count - 1)) for t in range(1, count)}


@pytest.mark.parametrize(
    ("confidence", "children"),
    [(0.99, 1), (0.75, 1), (0.74, 2), (0.5, 2), (0.25, 2), (0.24, 3), (0.2, 3)],
)
def test_branches_by_confidence(make, oracle_of, confidence, children):
    options = f"{OPEN},depth=1,max_depth=1,high=0.75,low=0.25"
    tree, _ = grown(make, oracle_of, options, lambda path: sure(confidence, 5))
    assert len(tree) == 1 + children
    tree, _ = grown(make, oracle_of, f"{options},breadth=off,b_mid=4", lambda path: sure(confidence, 5))
    assert len(tree) == 1 + 4


def test_confidence_is_each_nodes_own(make, oracle_of):
    after = {(0,): {1: 0.5, 2: 0.4}, (0, 1): {3: 0.95, 4: 0.05}, (0, 2): sure(0.3)}
    tree, _ = grown(make, oracle_of, f"{OPEN},depth=2,max_depth=2", after.get)
    assert tree.parents == [-1, 0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("p", "depth"), [(1.0, 6), (0.9, 6), (0.8, 4), (0.7, 2), (0.5, 2), (0.3, 2), (0.2, 1), (0.1, 1)]
)
def test_depth_by_path_probability(make, oracle_of, p, depth):
    """Expanded: p^d ≥ stop = 0.25, and above `depth` = 2 or p^d > deep = 0.5; none beyond 6."""
    options = "depth=2,max_depth=6,stop=0.25,deep=0.5,prune=0,breadth=off,b_mid=1"
    tree, frontiers = grown(make, oracle_of, options, lambda path: {1: p})
    assert tree.depth == depth
    assert frontiers == [[i] for i in range(depth)]
    tree, _ = grown(make, oracle_of, f"{options},gating=off", lambda path: {1: p})
    assert tree.depth == 2


@pytest.mark.parametrize(
    ("option", "limit"), [("stop=0.5", 2), ("stop=0.25", 3), ("deep=0.5,depth=1", 1),
                          ("deep=0.25,depth=1", 2)]
)
def test_at_a_threshold(make, oracle_of, option, limit):
    """p = 1/2 per level: `stop` is reached and expanded, `deep` must be exceeded."""
    options = f"max_depth=6,depth=6,prune=0,stop=0,deep=0,{option}".split(",")
    spec = ",".join(f"{k}={v}" for k, v in dict(o.split("=") for o in options).items())
    tree, _ = grown(make, oracle_of, spec, lambda path: {1: 0.5})
    assert tree.depth == limit


@pytest.mark.parametrize(("prune", "kept"), [(0.0, 3), (0.25, 2), (0.26, 1), (0.5, 1), (0.6, 0)])
def test_unlikely_children_are_dropped(make, oracle_of, prune, kept):
    options = f"depth=1,max_depth=1,prune={prune},breadth=off,b_mid=3"
    tree, _ = grown(make, oracle_of, options, lambda path: {1: 0.5, 2: 0.25, 3: 0.125})
    assert tree.tokens == [0, 1, 2, 3][: kept + 1]


def test_pruning_looks_at_the_whole_path(make, oracle_of):
    options = "depth=3,max_depth=3,stop=0,prune=0.2,breadth=off,b_mid=1"
    tree, _ = grown(make, oracle_of, options, lambda path: {1: 0.5})
    assert list(map(exp, tree.path_logprobs)) == [1.0, 0.5, 0.25]


def test_each_row_is_cut_to_what_its_own_node_keeps(make):
    """Rows of several lengths, 0 among them: cut by branches, by path probability, or not."""
    rows = {
        0: ([7, 8, 9], [0.5, 0.3, 0.2]),  # uncertain: three branches
        1: ([1, 2, 3], [0.95, 0.04, 0.01]),  # sure: one branch
        2: ([], []),
        3: ([4, 5, 6], [0.6, 0.3, 0.1]),  # two branches, of 0.2 · (0.6, 0.3): one is likely enough
    }
    asked = []

    def expand(tree, frontier, k):
        tokens = [list(rows[node][0]) for node in frontier]
        logprobs = [list(map(log, rows[node][1])) for node in frontier]
        asked.append((tokens, logprobs, deepcopy((tokens, logprobs))))
        return Candidates(tokens, logprobs)

    options = "depth=2,max_depth=2,stop=0,deep=0,prune=0.1,high=0.9,low=0.55"
    tree = make("shaper", f"adaptive:{options}").grow(ROOT, expand)
    assert tree.tokens == [0, 7, 8, 9, 1, 4]
    assert tree.parents == [-1, 0, 0, 0, 1, 3]
    expected = [0.0, log(0.5), log(0.3), log(0.2), log(0.95), log(0.6)]
    assert tree.logprobs == expected
    assert all([tokens, logprobs] == list(before) for tokens, logprobs, before in asked)


@pytest.mark.parametrize("breadth", ["on", "off"])
def test_the_impossible_is_never_grown(make, oracle_of, breadth):
    """Where nothing is pruned, neither a candidate of probability 0 nor one that is not there."""
    options = f"{OPEN},depth=3,max_depth=3,b_mid=3,breadth={breadth}"
    after = {(0,): {1: 0.6, 2: 0.0}, (0, 1): {3: 0.0}}
    tree, frontiers = grown(make, oracle_of, options, after.get)
    assert tree.tokens == [0, 1]
    assert frontiers == [[0], [1]]


@pytest.mark.parametrize("nodes", range(1, 16))
def test_the_limit_cuts_breadth_first(make, oracle_of, nodes):
    options = "depth=3,max_depth=3,stop=0,deep=0,prune=0,breadth=off,b_mid=2"
    whole, _ = grown(make, oracle_of, f"{options},nodes=99", lambda path: sure(0.4))
    tree, frontiers = grown(make, oracle_of, f"{options},nodes={nodes}", lambda path: sure(0.4))
    assert tree.tokens == whole.tokens[:nodes]
    assert tree.parents == whole.parents[:nodes]
    assert all(node < nodes for frontier in frontiers for node in frontier)


def law(seed):
    def after(path):
        rng = random.Random(f"{seed} {path}")
        shares = sorted((rng.random() ** 4 for _ in range(rng.choice([2, 4, 6]))), reverse=True)
        return {token: share / sum(shares) for token, share in enumerate(shares)}

    return after


def slow(after, o):
    """The class's docstring, node by node: [(path, probability)], levels in order."""
    tree, level = [((0,), 1.0)], [((0,), 1.0)]
    while level and len(tree) < o["nodes"]:
        children = []
        for path, p in level:
            depth = len(path) - 1
            if o["gating"]:
                deep = depth < o["depth"] or p > o["deep"]
                if depth >= o["max_depth"] or p < o["stop"] or not deep:
                    continue
            elif depth >= o["depth"]:
                continue
            law = list(after(path).items())
            c = law[0][1]
            count = o["b_min"] if c >= o["high"] else o["b_max"] if c < o["low"] else o["b_mid"]
            count = count if o["breadth"] else o["b_mid"]
            children += [((*path, t), p * q) for t, q in law[:count] if p * q >= o["prune"]]
        level = children[: o["nodes"] - len(tree)]
        tree += level
    return tree


@given(
    seed=st.integers(0, 9999),
    depth=st.integers(1, 3), extra=st.integers(0, 2),
    low=st.floats(0, 0.5), high=st.floats(0.5, 1), stop=st.floats(0, 0.3), deep=st.floats(0, 1),
    prune=st.floats(0, 0.2), nodes=st.integers(1, 40),
    b=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
    breadth=st.booleans(), gating=st.booleans(),
)
def test_a_slow_reading_of_the_rule(
    make, oracle_of, path_of, seed, depth, extra, low, high, stop, deep, prune, nodes, b,
    breadth, gating,
):
    options = {
        "depth": depth, "max_depth": depth + extra, "low": low, "high": high, "stop": stop,
        "deep": deep, "prune": prune, "nodes": nodes, "b_min": b[0], "b_mid": b[1], "b_max": b[2],
        "breadth": breadth, "gating": gating,
    }
    spec = ",".join(f"{name}={value}" for name, value in options.items())
    tree, frontiers = grown(make, oracle_of, spec, law(seed))
    expected = slow(law(seed), options)
    assert [path_of(tree, node) for node in range(len(tree))] == [path for path, _ in expected]
    assert list(map(exp, tree.path_logprobs)) == pytest.approx([p for _, p in expected])
    depths = [{tree.depths[node] for node in frontier} for frontier in frontiers]
    assert depths == [{level} for level in range(len(frontiers))]  # one call per level


@pytest.fixture
def steer(make, plant):
    """`steer(options, accepted, …)`: a shaper that has seen steps of depth 4."""
    chain = plant([(i, i, -0.1) for i in range(4)])

    def steered(options, *accepted):
        shaper = make("shaper", f"adaptive:{options}")
        for count in accepted:
            shaper.observe(chain, Verdict(list(range(count + 1)), 9))
        return shaper

    return steered


def limits(shaper, oracle_of):
    """(levels that any node reaches, children at confidence 0.87) as the next tree shows them."""
    even = shaper.grow(ROOT, oracle_of(lambda path: {1: 0.2}))
    broad = shaper.grow(ROOT, oracle_of(lambda path: sure(0.87) if len(path) < 2 else {}))
    return even.depth, broad.depths.count(1)


STEER = "deep=1,stop=0,prune=0,depth=4,max_depth=8"


@pytest.mark.parametrize(
    ("accepted", "depth", "children"),
    [
        ([4] * 4, 4, 2),  # too early
        ([4] * 5, 5, 1),  # all accepted: deeper and thinner
        ([4] * 6, 6, 1),
        ([4] * 30, 7, 1),  # never to max_depth itself
        ([0] * 4, 4, 2),
        ([0] * 5, 3, 2),  # all rejected: shallower
        ([0] * 30, 2, 2),  # never below 2
        ([3] * 30, 4, 2),  # 0.75 is near the goal
        ([0] * 5 + [4] * 40, 7, 1),  # what lies outside the window is forgotten
    ],
)
def test_history_steers_depth_and_breadth(steer, oracle_of, accepted, depth, children):
    shaper = steer(f"{STEER},goal=0.7", *accepted)
    assert limits(shaper, oracle_of) == (depth, children)
    fixed = steer(f"{STEER},goal=0.7,history=off", *accepted)
    assert limits(fixed, oracle_of) == (4, 2)


@pytest.mark.parametrize(
    ("accepted", "high", "deep"),
    [
        ([4] * 5, 0.85, 0.45),
        ([4] * 6, 0.80, 0.40),
        ([4] * 60, 0.5, 0.3),
        ([0] * 5, 0.95, 0.55),
        ([0] * 6, 0.95, 0.60),
        ([0] * 60, 0.95, 0.8),
        ([], 0.9, 0.5),
    ],
)
def test_thresholds_move_by_the_rate_and_within_bounds(steer, oracle_of, accepted, high, deep):
    """Found from outside: the branches and the expansion just below and just above."""
    shaper = steer("depth=2,max_depth=3,stop=0,prune=0", *accepted)
    children = [
        shaper.grow(ROOT, oracle_of(lambda path, c=c: sure(c))).depths.count(1)
        for c in (high - 0.01, high + 0.01)
    ]
    assert children == [2, 1]
    deeper = [
        shaper.grow(ROOT, oracle_of(lambda path, p=p: {1: 1.0 if len(path) < 2 else p})).depth
        for p in (deep - 0.01, deep + 0.01)
    ]
    assert deeper == [2, 3]


@pytest.mark.parametrize(
    ("depth", "accepted"), [(1, [0] * 9), (8, [4] * 9)]  # below the one bound, above the other
)
def test_a_depth_outside_the_bounds_stays(steer, oracle_of, depth, accepted):
    shaper = steer(f"depth={depth},max_depth={depth},stop=0,deep=1,prune=0", *accepted)
    assert limits(shaper, oracle_of)[0] == depth


def test_the_window_is_of_steps(steer, oracle_of):
    """Four good steps after many bad ones: a window of 5 sees 4 of 5, one of 20 does not."""
    history = [0] * 16 + [4] * 5
    before, now = (
        limits(steer(f"{STEER},goal=0.75,window=5", *history[:n]), oracle_of)[0] for n in (20, 21)
    )
    assert (before, now) == (2, 3)
    assert limits(steer(f"{STEER},goal=0.75,window=20", *history), oracle_of)[0] == 2


def test_a_step_that_drafted_nothing_is_no_history(steer, oracle_of):
    shaper = steer(STEER, *[4] * 4)
    for _ in range(9):
        shaper.observe(ROOT, Verdict([0], 1))
    assert limits(shaper, oracle_of) == (4, 2)


def test_depth_is_at_most_max_depth(registry):
    with pytest.raises(SpecError, match="'depth' must be at most 'max_depth'"):
        registry.resolve("shaper", "adaptive:depth=9")


@pytest.mark.parametrize("option", ["high=1.1", "low=-0.1", "b_min=0", "nodes=0", "window=0"])
def test_options_out_of_range(registry, option):
    with pytest.raises(SpecError, match=f"'{option.partition('=')[0]}' must be"):
        registry.resolve("shaper", f"adaptive:{option}")


def test_candidates_count_up_to_the_first_that_is_unlikely(make):
    """Whatever comes after it, should a drafter not put the likeliest first."""
    shaper = make("shaper", "adaptive")
    kept = shaper._keep_likely(TokenTree.root(0), [0], Candidates([[1, 2]], [[-9.0, -0.1]]))
    assert kept.tokens == [[]]
