"""Prompt look-up against a slow search of the text."""

from collections import Counter
from itertools import chain
from math import exp

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toolkit import Candidates, TokenTree
from toolkit.errors import SpecError

WORDS = st.lists(st.integers(0, 2), min_size=1, max_size=24)


def slow(text, tail, longest, shortest):
    """{token: probability} by searching the text for every suffix of `tail`, long before short."""
    found, left = {}, 1.0
    for n in range(min(longest, len(tail)), shortest - 1, -1):
        wanted = tail[len(tail) - n :]
        after = Counter(text[i + n] for i in range(len(text) - n) if text[i : i + n] == wanted)
        if after:
            total = after.total() + 1
            for token, count in after.items():
                found.setdefault(token, left * count / total)
            left /= total
    return found


def drafter_of(make, spec, *commits):
    drafter = make("drafter", spec)
    drafter.start(commits[0], None)
    for tokens in commits[1:]:
        drafter.commit(tokens)
    return drafter


def proposals(candidates, row=0):
    probabilities = map(exp, candidates.logprobs[row])
    return dict(zip(candidates.tokens[row], probabilities, strict=True))


@given(
    text=WORDS, path=st.lists(st.integers(0, 2), min_size=1, max_size=5), n=st.integers(1, 9),
    shortest=st.integers(1, 3), k=st.integers(1, 4),
)
@example(text=[0, 0, 0, 0], path=[0], n=6, shortest=1, k=1)  # a text shorter than n
def test_counts_are_probabilities(make, plant, text, path, n, shortest, k):
    """`path` runs from the root: committed text, then drafts."""
    drafter = drafter_of(make, f"ngram:n={n},shortest={min(n, shortest)}", text)
    tree = plant([(i, token, -1.0) for i, token in enumerate(path[1:])], root=path[0])
    expected = slow(text, [*text, *path], n, min(n, shortest))
    best = sorted(expected.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    found = proposals(drafter.expand(tree, [len(path) - 1], k))
    assert list(found) == [token for token, _ in best]
    assert list(found.values()) == pytest.approx([p for _, p in best])
    assert sum(found.values()) <= 1


def test_the_longest_match_comes_first(make):
    # after (1, 2) came 7 once; after 2 alone came 9 three times
    drafter = drafter_of(make, "ngram:n=2", [1, 2, 7, 2, 9, 2, 9, 2, 9, 1])
    root = TokenTree.root(2)
    assert proposals(drafter.expand(root, [0], 4)) == pytest.approx({7: 1 / 2, 9: 1 / 2 * 3 / 5})


def test_several_continuations_each_with_its_share(make):
    drafter = drafter_of(make, "ngram:n=1", [5, 1, 5, 2, 5, 1, 5, 3])
    root = TokenTree.root(5)
    assert proposals(drafter.expand(root, [0], 9)) == pytest.approx({1: 2 / 5, 2: 1 / 5, 3: 1 / 5})
    assert drafter.expand(root, [0], 2).tokens == [[1, 2]]


def test_a_row_without_proposals_beside_one_with_is_never_grown(make):
    drafter = drafter_of(make, "ngram:n=1", [5, 1, 5, 2])
    tree = TokenTree.root(9).grow([0], Candidates([[5, 8]], [[-1.0, -1.0]]))
    candidates = drafter.expand(tree, [1, 2], 3)
    assert [sorted(proposals(candidates, row)) for row in (0, 1)] == [[1, 2], []]
    assert tree.grow([1, 2], candidates).parents[3:] == [1, 1]


def test_nothing_found_is_no_candidates(make):
    drafter = drafter_of(make, "ngram", [1, 2, 3])
    assert drafter.expand(TokenTree.root(9), [0], 3).tokens == [[]]


@given(
    text=WORDS, steps=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=4),
    drafts=st.lists(st.integers(0, 2), min_size=1, max_size=4),
)
def test_state_is_a_function_of_committed_tokens(make, plant, text, steps, drafts):
    """Steps or one prompt, with questions between or without: the answers are the same."""
    together = drafter_of(make, "ngram", [*text, *chain.from_iterable(steps)])
    apart = drafter_of(make, "ngram", text)
    tree = plant([(i, token, -1.0) for i, token in enumerate(drafts)], root=1)
    every = list(range(len(tree)))
    for tokens in steps:
        apart.expand(tree, every, 3)
        apart.commit(tokens)
    ours, theirs = (drafter.expand(tree, every, 3) for drafter in (apart, together))
    assert ours.tokens == theirs.tokens
    assert ours.logprobs == theirs.logprobs


@pytest.mark.parametrize("spec", ["ngram:n=0", "ngram:shortest=0", "ngram:n=2,shortest=3"])
def test_options_that_could_match_nothing(registry, spec):
    with pytest.raises(SpecError):
        registry.resolve("drafter", spec)
