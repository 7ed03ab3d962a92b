"""The model drafter: right candidates, and no token forwarded twice."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, Sampling, TokenTree
from toolkit.engine import Strategies, decode

PROMPT = [1, 2, 3, 4]
ROOT = [0]


@pytest.fixture
def start(make, hash_model, hash_runtime):
    """A started drafter and the runtime that it draws on."""

    def started(prompt=PROMPT, model=None, vocabulary=11, positions=1 << 30):
        runtime = hash_runtime(model or hash_model(), vocabulary, positions)
        drafter = make("drafter", "model:small")
        drafter.start(prompt, runtime)
        return drafter, runtime

    return started


def grown(drafter, root, levels=1, k=2):
    """A tree of all candidates, `levels` deep, and its last frontier."""
    tree, frontier = TokenTree.root(root), ROOT
    while levels and frontier:
        first, levels = len(tree), levels - 1
        tree = tree.grow(frontier, drafter.expand(tree, frontier, k))
        frontier = list(range(first, len(tree)))
    return tree, frontier


@given(
    seed=st.integers(0, 99),
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 10), max_size=3), st.booleans()),
        max_size=6,
    ),
)
def test_candidates_are_the_models_likeliest_after_each_path(
    make, hash_model, hash_runtime, path_of, seed, steps
):
    """Whatever was drafted, accepted, rejected or never drafted before."""
    model = hash_model(seed)
    drafter, text, root = make("drafter", "model:small"), list(PROMPT), 5
    drafter.start(PROMPT, hash_runtime(model, 11))
    for levels, others, likeliest in steps:
        tree, frontier = TokenTree.root(root), ROOT
        for _ in range(levels):
            candidates = drafter.expand(tree, frontier, 3)
            for row, node in enumerate(frontier):
                expected = model.logits([*text, *path_of(tree, node)]).float().log_softmax(-1).topk(3)
                assert candidates.tokens[row] == expected.indices.tolist()
                assert candidates.logprobs[row] == pytest.approx(expected.values.tolist(), abs=1e-5)
            first = len(tree)
            tree = tree.grow(frontier, candidates)
            frontier = list(range(first, len(tree)))
        drafted = path_of(tree, len(tree) - 3)[1:] if levels else ()
        accepted = drafted if likeliest else others  # what was never drafted, at times
        drafter.commit([root, *accepted])
        text += [root, *accepted]
        root = (root + 3) % 11


@pytest.mark.parametrize(
    "shaper", ["chain:k=4", "fixed:threshold=0,depth=3", "adaptive:stop=0,prune=0", "adaptive"]
)
@pytest.mark.parametrize("seed", range(4))
def test_no_text_is_forwarded_twice(make, hash_model, hash_session, hash_runtime, shaper, seed):
    target = hash_model(seed, order=2)
    runtime = hash_runtime(hash_model(seed, order=2 + seed % 2), 11)  # agrees always, or at times
    strategies = Strategies(
        make("drafter", "model:small"), make("shaper", shaper), make("verifier", "greedy")
    )
    events = list(decode(
        hash_session(target), runtime, strategies, PROMPT, max_new_tokens=40,
        ends=lambda token: False, sampling=Sampling(), seed=0,
    ))
    (session,) = runtime.sessions
    assert len(session.forwarded) == len(set(session.forwarded))
    text = [*PROMPT, *(token for event in events for token in event.tokens)]
    assert session.committed == text[: session.length]
    if seed % 2 == 0 and shaper == "chain:k=4":
        assert all(event.step.accepted == event.step.depth for event in events[1:])


def test_accepted_drafts_are_not_forwarded_again(start):
    drafter, runtime = start()
    tree, _ = grown(drafter, 5, levels=3, k=1)
    session = runtime.sessions[0]
    before = len(session.forwarded)
    assert before == len(PROMPT) + 3  # the prompt, the root and two drafts; the third is a leaf
    drafter.commit(tree.tokens)
    grown(drafter, 7, levels=1)
    assert session.forwarded[before:] == [(*PROMPT, *tree.tokens), (*PROMPT, *tree.tokens, 7)]


def test_a_level_is_one_forward(start):
    drafter, runtime = start()
    before = runtime.sessions[0].forwards
    tree, _ = grown(drafter, 5, levels=3, k=2)
    assert len(tree) == 1 + 2 + 4 + 8
    assert runtime.sessions[0].forwards - before == 3


def test_a_node_asked_for_again_is_not_forwarded_again(start):
    drafter, runtime = start()
    tree, frontier = grown(drafter, 5, levels=2)
    first = drafter.expand(tree, frontier, 2)
    count = len(runtime.sessions[0].forwarded)
    again = drafter.expand(tree, ROOT + frontier, 2)
    assert len(runtime.sessions[0].forwarded) == count
    assert again.tokens[1:] == first.tokens


def test_it_catches_up_after_steps_that_never_asked(start, hash_model):
    drafter, runtime = start()
    for tokens in ([5], [6, 7], [8]):
        drafter.commit(tokens)
    before = runtime.sessions[0].forwards
    candidates = drafter.expand(TokenTree.root(9), ROOT, 1)
    text = [*PROMPT, 5, 6, 7, 8, 9]
    assert candidates.tokens == [[int(hash_model().logits(text).argmax())]]
    drafter.commit([9])
    assert runtime.sessions[0].forwards == before + 1
    assert runtime.sessions[0].committed == text


@pytest.mark.parametrize("positions", [1, 4, 5, 6, 8])
def test_beyond_its_positions_it_proposes_nothing(start, positions):
    """The session itself asserts that no text is longer than its positions."""
    drafter, runtime = start(positions=positions)
    tree, _ = grown(drafter, 5, levels=6, k=1)
    room = positions - len(PROMPT)  # roots and drafts that it could read
    assert tree.depth in (max(room, 0), max(room - 1, 0))
    drafter.commit(tree.tokens)
    tree, _ = grown(drafter, 6, levels=6, k=1)
    drafter.commit(tree.tokens)
    none = drafter.expand(TokenTree.root(7), ROOT, 3)
    assert none.tokens == [[]]
    assert len(runtime.sessions[0].committed) <= positions


def test_it_proposes_only_ids_that_the_target_knows(start, hash_model):
    drafter, _ = start(model=hash_model(vocabulary=40), vocabulary=11)
    candidates = drafter.expand(TokenTree.root(5), ROOT, 99)
    assert sorted(candidates.tokens[0]) == list(range(11))
    assert sum(map(exp, candidates.logprobs[0])) == pytest.approx(1.0)


def test_ids_that_it_does_not_know_become_its_last(start, hash_model):
    drafter, runtime = start(prompt=[1, 30, 2], model=hash_model(vocabulary=11), vocabulary=40)
    tree = TokenTree.root(35)
    tree = tree.grow(ROOT, drafter.expand(tree, ROOT, 2))
    tree = tree.grow(ROOT, Candidates([[39]], [[-1.0]]))
    candidates = drafter.expand(tree, [1, 2, 3], 99)
    assert max(map(max, candidates.tokens)) == 10
    assert runtime.sessions[0].forwarded[3] == (1, 10, 2, 10)
    assert runtime.sessions[0].forwarded[-1] == (1, 10, 2, 10, 10)
