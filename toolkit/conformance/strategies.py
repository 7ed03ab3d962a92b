"""Hypothesis strategies for tests of your own: token trees, schedules, prompts, tiny models.

Public, like the names in `toolkit`: `from toolkit.conformance.strategies import trees`. All draw from
the vocabulary of the tiny models, so that any of them goes with any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import hypothesis.strategies as st
from transformers import PreTrainedModel

from toolkit.conformance.models import FAMILIES, VOCABULARY, fresh
from toolkit.conformance.nodes import path_to
from toolkit.tree import Candidates, TokenTree

Draw = Callable[[st.SearchStrategy[Any]], Any]
Schedule = list[tuple[TokenTree, list[int]]]


def prompts() -> st.SearchStrategy[tuple[int, ...]]:
    """Prompts of 1 to 24 ids, some of them repeating, so that look-up finds something."""
    words = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=12)
    return st.builds(lambda ids, times: tuple(ids * times), words, st.integers(1, 2))


@st.composite
def trees(draw: Draw, nodes: int = 16, vocabulary: int = VOCABULARY) -> TokenTree:
    """Arbitrary trees of 1 to `nodes` nodes: chains, stars, duplicate siblings, any order."""
    tree = TokenTree.root(draw(st.integers(0, vocabulary - 1)))
    for size in range(1, draw(st.integers(1, nodes))):
        parent = draw(st.integers(0, size - 1))
        token = draw(st.integers(0, vocabulary - 1))
        logprob = -draw(st.integers(0, 8)) / 4
        tree = tree.grow([parent], Candidates([[token]], [[logprob]]))
    return tree


@st.composite
def schedules(draw: Draw, steps: int = 3, nodes: int = 8) -> Schedule:
    """Speculation as it might go: 1 to `steps` pairs of a tree and the path [A] of it that is
    committed, root first."""
    made = []
    for tree in draw(st.lists(trees(nodes), min_size=1, max_size=steps)):
        node = draw(st.integers(0, len(tree) - 1))
        made.append((tree, path_to(tree, node)))
    return made


def models() -> st.SearchStrategy[PreTrainedModel]:
    """Tiny random float64 models of every tested architecture, each a new one."""
    return st.builds(fresh, st.sampled_from(sorted(FAMILIES)), st.integers(0, 5))


@attrs.frozen
class Pass:
    """One pass of a schedule: how many drafted tokens are accepted, and what is drafted beside them.

    `wrong` are (parent, token) pairs; a parent is counted over the nodes so far and wraps around.
    """

    accepted: int
    wrong: tuple[tuple[int, int], ...] = ()


@st.composite
def texts(draw: Draw) -> tuple[tuple[int, ...], int]:
    """A text of 12 to 72 ids that repeats itself, and how many of them, 1 to 48, are a prompt."""
    words = draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=2, max_size=20))
    length = draw(st.integers(12, 72))
    text = tuple(words[i % len(words)] for i in range(length))
    return text, draw(st.integers(1, min(48, length - 4)))


def passes() -> st.SearchStrategy[list[Pass]]:
    """Schedules of 1 to 24 passes: 0 to 12 accepted tokens each, and up to 6 wrong nodes beside."""
    wrong = st.tuples(st.integers(0, 20), st.integers(1, VOCABULARY - 1))
    one = st.builds(Pass, st.integers(0, 12), st.lists(wrong, max_size=6).map(tuple))
    return st.lists(one, min_size=1, max_size=24)
