"""The loop, over a language model made of hashes: no transformers, no numerics, only logic."""

import random
import time
from itertools import compress

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, Drafter, TokenTree, TreeShaper, Verdict, option
from toolkit.engine import Strategies, TimedDrafter, Verified, cut_verdict, decode, require_path
from toolkit.errors import StrategyError
from toolkit.sampling import Sampling


@attrs.define(eq=False)
class Adversary(Drafter):
    """Drafts by a function from the whole text to tokens; keeps the text by `commit`."""

    name = "adversary"
    after: object = option()
    text: list = attrs.field(init=False)
    log: list = attrs.field(init=False, factory=list)

    def start(self, prompt, runtime):
        self.text = list(prompt)

    def expand(self, tree, frontier, k):
        paths = [compress(tree.tokens, line) for line in tree.ancestors()[frontier].tolist()]
        rows = [self.after([*self.text, *path], k) for path in paths]
        return Candidates(rows, [[-0.5] * len(row) for row in rows])

    def commit(self, tokens):
        self.log.append(tokens)
        self.text += tokens


def wrong(model):
    """Never the target's token, each candidate twice."""
    return lambda text, k: [
        t for t in range(model.vocabulary) if t != int(model.logits(text).argmax()) for _ in "ab"
    ][:k]


def oracle(model):
    return lambda text, k: [int(model.logits(text).argmax())]


def noise(model):
    """Anything, the right token and duplicate siblings included."""
    dice = random.Random(0)
    return lambda text, k: dice.choices([*range(4), *oracle(model)(text, k) * 8], k=k)


def repeating(model):
    return lambda text, k: [text[-1]] * k


def run(model, session, *args):
    return list(start(session, *args))


def start(session, drafter, shaper, verifier, prompt, count, stop=frozenset(), **options):
    return decode(
        session, None, Strategies(drafter, shaper, verifier), prompt, max_new_tokens=count,
        ends=frozenset(stop).__contains__, sampling=Sampling(), seed=0, **options,
    )


SHAPERS = ["chain:k=3", "chain:k=40", "fixed:depth=3,branch=2", "adaptive", "budget:nodes=6"]


@pytest.mark.parametrize("shaper", SHAPERS)
@pytest.mark.parametrize("adversary", [wrong, oracle, noise, repeating])
@given(
    seed=st.integers(0, 99),
    prompt=st.lists(st.integers(0, 10), min_size=1, max_size=6),
    count=st.integers(1, 20),
    stop=st.sets(st.integers(0, 10), max_size=2),
)
def test_whatever_is_drafted_the_tokens_are_those_of_ar(
    hash_model, hash_session, make, shaper, adversary, seed, prompt, count, stop
):
    model = hash_model(seed)
    session, drafter = hash_session(model), Adversary(adversary(model))
    events = run(model, session, drafter, make("shaper", shaper), make("verifier", "greedy"),
                 prompt, count, stop)
    tokens = [token for event in events for token in event.tokens]
    assert tokens == model.greedy(prompt, count, stop)
    assert session.committed == [*prompt, *tokens[:-1]]
    assert [*prompt, *(t for log in drafter.log for t in log)] == session.committed
    steps = [event.step for event in events[1:]]
    assert len(events[0].tokens) == 1
    assert [len(event.tokens) for event in events[1:]] == [step.committed for step in steps]
    assert all(step.accepted == len(event.verdict.path) - 1
               for step, event in zip(steps, events[1:], strict=True))
    assert [step.length for step in steps] == [
        len(prompt) + sum(len(e.tokens) for e in events[:i]) - 1 for i in range(1, len(events))
    ]
    if adversary is wrong:
        assert all(step.accepted == 0 and step.committed == 1 for step in steps)
    if adversary is oracle and not stop and shaper == "chain:k=40":
        assert len(steps) == (count > 1)


def test_nothing_is_drafted_that_could_not_be_emitted(hash_model, hash_session, make):
    model = hash_model()
    events = run(model, hash_session(model), Adversary(oracle(model)), make("shaper", "chain:k=40"),
                 make("verifier", "greedy"), [1, 2], 6)
    assert [event.tree.depth for event in events[1:]] == [4]
    assert [event.step.nodes for event in events[1:]] == [5]


def test_one_token_asks_no_drafter(hash_model, hash_session, make):
    model, drafter = hash_model(), Adversary(None)
    events = run(model, hash_session(model), drafter, make("shaper", "chain"),
                 make("verifier", "greedy"), [1, 2], 1)
    assert [event.tokens for event in events] == [model.greedy([1, 2], 1)]
    assert not hasattr(drafter, "text")


@pytest.mark.parametrize(
    ("path", "bonus", "room", "stop", "kept", "tokens"),
    [
        ([0, 1, 2], 9, 9, set(), [0, 1, 2], [5, 6, 9]),
        ([0], 9, 9, set(), [0], [9]),
        ([0, 1, 2], 9, 9, {5}, [0], [5]),
        ([0, 1, 2], 9, 9, {6}, [0, 1], [5, 6]),
        ([0, 1, 2], 9, 9, {9}, [0, 1, 2], [5, 6, 9]),
        ([0, 1, 2], 9, 9, {9, 6}, [0, 1], [5, 6]),
        ([0, 1, 2], 9, 2, set(), [0, 1], [5, 6]),
        ([0, 1, 2], 9, 1, set(), [0], [5]),
        ([0, 1, 2], 9, 1, {6}, [0], [5]),
        ([0, 3, 4], 9, 2, set(), [0, 3], [7, 8]),
    ],
)
def test_a_verdict_is_cut_after_a_stop_id_and_to_the_room(plant, path, bonus, room, stop, kept, tokens):
    tree = plant([(0, 5, 0.0), (1, 6, 0.0), (0, 7, 0.0), (3, 8, 0.0)], root=4)
    verdict, emitted, ended = cut_verdict(Verdict(path, bonus), tree, room, stop.__contains__)
    assert ended is (tokens[-1] in stop)
    assert (verdict.path, emitted) == (kept, tokens)
    assert verdict.bonus == emitted[-1]


@attrs.define(eq=False)
class Broad(TreeShaper):
    """Grows `levels` levels, and whatever it is given."""

    name = "broad"
    nodes: int = option(4)
    levels: int = option(1)
    asked: list = attrs.field(init=False, factory=list)

    def grow(self, root, expand):
        tree, frontier = root, [0]
        for _ in range(self.levels):
            candidates = expand(tree, frontier, 3)
            self.asked.append(max(map(len, candidates.tokens), default=0))
            first = len(tree)
            tree = tree.grow(frontier, candidates)
            frontier = list(range(first, len(tree)))
        return tree


@pytest.mark.parametrize(("nodes", "fine"), [(4, True), (3, False)])
def test_a_shaper_keeps_to_its_nodes(nodes, fine):
    draft = TimedDrafter(Adversary(lambda text, k: [1, 2, 3]), 11)
    draft.drafter.text = []
    grow = lambda: draft.tree(Broad(nodes), 0, 5)  # noqa: E731
    if fine:
        assert len(grow()) == 4
    else:
        with pytest.raises(StrategyError, match=r"shaper 'broad' grew 4 nodes, but declares at most 3"):
            grow()


@given(levels=st.integers(0, 6), depth=st.integers(0, 6))
def test_expand_ends_where_nothing_could_be_emitted(levels, depth):
    drafter, shaper = Adversary(lambda text, k: [1]), Broad(99, levels)
    drafter.text = []
    draft = TimedDrafter(drafter, 11)
    assert draft.tree(shaper, 0, depth).depth == min(levels, depth)
    assert shaper.asked == ([1] * depth + [0] * levels)[:levels]


def test_a_shaper_that_invents_depth_is_cut():
    class Deep(Broad):
        def grow(self, root, expand):
            tree = root
            for tip in range(5):
                tree = tree.grow([tip], Candidates([[tip]], [[0.0]]))
            return tree

    draft = TimedDrafter(Adversary(None), 11)
    assert draft.tree(Deep(9), 7, 2).tokens == [7, 0, 1]


@pytest.mark.parametrize("change", [{"tokens": [8, 1]}, {"parents": [-1, 1]}])
def test_a_shaper_returns_a_tree_on_its_root(plant, change):
    class Odd(Broad):
        def grow(self, root, expand):
            return attrs.evolve(plant([(0, 1, -1.0)], root=7), **change)

    with pytest.raises(StrategyError, match="shaper 'broad' returned no tree on the root"):
        TimedDrafter(Adversary(None), 11).tree(Odd(9), 7, 5)


@pytest.mark.parametrize("token", [11, 4096, -1])
def test_a_drafter_keeps_to_the_vocabulary(token):
    drafter = Adversary(lambda text, k: [1, token])
    drafter.text = []
    with pytest.raises(StrategyError, match=f"drafter 'adversary' proposed token {token}"):
        TimedDrafter(drafter, 11).tree(Broad(9), 0, 3)


@pytest.mark.parametrize(("tokens", "logprobs", "odd"), [
    ([torch.tensor(3)], [-1.0], "Tensor"), ([3.0], [-1.0], "float"), ([np.int64(3)], [-1.0], "int64"),
    ([3], [torch.tensor(-1.0)], "Tensor"), ([3], ["-1"], "str"),
])
def test_what_are_no_numbers_is_refused_by_name(tokens, logprobs, odd):
    """A stop id in a tensor would never equal the one that ends a request."""
    class Odd(Adversary):
        def expand(self, tree, frontier, k):
            return Candidates([tokens], [logprobs])

    class One(Broad):
        def grow(self, root, expand):
            tree = root.grow([0], Candidates([[1]], [[-1.0]]))
            given = expand(root, [0], 1)
            return attrs.evolve(tree, tokens=[root.tokens[0], *given.tokens[0]],
                                logprobs=[0.0, *given.logprobs[0]])

    with pytest.raises(StrategyError, match=f"drafter 'adversary' proposed a {odd} where a plain"):
        TimedDrafter(Odd(None), 11).tree(One(9), 0, 3)


@pytest.mark.parametrize("path", [
    [], [1], [0, 2], [0, -1], [0, 1, 1], [torch.tensor(0)], [0, torch.tensor(1)],
])
def test_a_path_that_is_none_is_refused_by_the_verifiers_name(plant, make, path):
    verifier = make("verifier", "greedy")
    with pytest.raises(StrategyError, match=r"verifier 'greedy' gave path .* in a tree of 2 nodes"):
        require_path(Verdict(path, 3), plant([(0, 1, -1.0)]), verifier)
    require_path(Verdict([0, 1], 3), plant([(0, 1, -1.0)]), verifier)


def test_the_last_id_is_within_the_vocabulary():
    drafter = Adversary(lambda text, k: [10])
    drafter.text = []
    assert TimedDrafter(drafter, 11).tree(Broad(9), 0, 3).tokens == [0, 10]


def test_feedback_comes_once_per_step(hash_model, hash_session, make):
    seen = []

    class Watching(Broad):
        def observe(self, tree, verdict):
            seen.append((tree, verdict))

    model = hash_model(3)
    events = run(model, hash_session(model), Adversary(noise(model)), Watching(9, 1),
                 make("verifier", "greedy"), [1, 2], 12)
    assert [(e.tree, e.verdict) for e in events[1:]] == seen


def test_margin_is_first_less_second_at_the_paths_end(hash_model, hash_session, make):
    model, prompt = hash_model(5), [1, 2]
    events = run(model, hash_session(model), Adversary(noise(model)), make("shaper", "chain:k=2"),
                 make("verifier", "greedy"), prompt, 10)
    text = [*prompt, *events[0].tokens]
    for event in events[1:]:
        text += event.tokens
        first, second = model.logits(text[:-1]).topk(2).values.tolist()
        if event is not events[-1]:  # the last may be cut to the room
            assert event.step.margin == first - second


def test_a_drafter_may_do_with_its_prompt_what_it_likes(hash_model, hash_session, make):
    class Emptying(Adversary):
        def start(self, prompt, runtime):
            super().start(prompt, runtime)
            prompt.clear()

    model, prompt = hash_model(3), [1, 2]
    greedy, drafter = make("verifier", "greedy"), Emptying(noise(model))
    run(model, hash_session(model), drafter, Broad(9, 1), greedy, prompt, 4)
    assert prompt == [1, 2]


@attrs.define
class RanAhead:
    """Whole steps of roots, each of which a device ran for some time before it was asked for."""

    session: object
    ms: float

    def run(self, committed, depth):
        tree = TokenTree.root(committed[-1])
        logits = self.session.forward(tree.tokens, tree.parents)
        return Verified(tree, logits, ([int(logits.argmax())], [1.0]), self.ms)


@pytest.mark.parametrize(("ms", "least", "most"), [(0.0, 0, 5), (5.0, 5, 10), (1e6, 15, 1e5)])
def test_a_step_that_ran_ahead_has_its_time(hash_model, hash_session, make, ms, least, most):
    """What it ran while nobody asked for it counts, but no longer than nobody asked."""
    model, found = hash_model(), []
    session = hash_session(model)
    ahead = RanAhead(session, ms)
    for event in start(session, Adversary(None), make("shaper", "adaptive"), make("verifier", "greedy"),
                       [1, 2], 8, whole_step=lambda: ahead):
        found.append(event)
        time.sleep(0.015)
    times = [event.step.verify_ms for event in found[2:]]
    assert least <= min(times) < most
    assert [token for event in found for token in event.tokens] == model.greedy([1, 2], 8)
