"""Hypothesis strategies for your own tests: token trees, schedules, prompts, tiny models.

They are public: `from toolkit.conformance.generators import trees`. All use the vocabulary of the tiny
models, so that you can combine them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import hypothesis.strategies as st
from transformers import PreTrainedModel

from toolkit.conformance.models import FAMILIES, VOCABULARY, fresh
from toolkit.conformance.tree_paths import path_to
from toolkit.sampling import Sampling
from toolkit.tree import Candidates, TokenTree

Draw = Callable[[st.SearchStrategy[Any]], Any]
Schedule = list[tuple[TokenTree, list[int]]]


def prompts() -> st.SearchStrategy[tuple[int, ...]]:
    """Prompts of 1 to 24 ids. Some repeat themselves, so that n-gram look-up finds something."""
    words = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=12)
    return st.builds(lambda ids, times: tuple(ids * times), words, st.integers(1, 2))


@st.composite
def trees(draw: Draw, nodes: int = 16, vocabulary: int = VOCABULARY) -> TokenTree:
    """Trees of 1 to `nodes` nodes of any shape, with duplicate siblings, in any order of nodes."""
    tree = TokenTree.root(draw(st.integers(0, vocabulary - 1)))
    for size in range(1, draw(st.integers(1, nodes))):
        parent = draw(st.integers(0, size - 1))
        token = draw(st.integers(0, vocabulary - 1))
        logprob = -draw(st.integers(0, 8)) / 4
        tree = tree.grow([parent], Candidates([[token]], [[logprob]]))
    return tree


@st.composite
def schedules(draw: Draw, steps: int = 3, nodes: int = 8) -> Schedule:
    """Lists of 1 to `steps` pairs: a tree, and the path [A] of it that is committed, root first."""
    made = []
    for tree in draw(st.lists(trees(nodes), min_size=1, max_size=steps)):
        node = draw(st.integers(0, len(tree) - 1))
        made.append((tree, path_to(tree, node)))
    return made


def samplings() -> st.SearchStrategy[Sampling]:
    """Sampling with and without the settings that exclude tokens, and greedy decoding."""
    return st.sampled_from(
        [
            Sampling(0.7),
            Sampling(1.0, top_p=0.9),
            Sampling(2.0, top_k=5, min_p=0.1),
            Sampling(0.3),
            Sampling(),
        ]
    )


def models() -> st.SearchStrategy[PreTrainedModel]:
    """Tiny random float64 models of every tested architecture, a new one for each example."""
    return st.builds(fresh, st.sampled_from(sorted(FAMILIES)), st.integers(0, 5))


@attrs.frozen
class ScheduledPass:
    """One pass of a schedule: the number of accepted draft tokens, and the wrong nodes beside them.

    `wrong` holds (parent, token) pairs. The parent is taken modulo the number of nodes so far.
    """

    accepted: int
    wrong: tuple[tuple[int, int], ...] = ()


@st.composite
def texts(draw: Draw) -> tuple[tuple[int, ...], int]:
    """Pairs of a text of 12 to 72 ids that repeats itself, and the length of its prompt, 1 to 48."""
    words = draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=2, max_size=20))
    length = draw(st.integers(12, 72))
    text = tuple(words[i % len(words)] for i in range(length))
    return text, draw(st.integers(1, min(48, length - 4)))


def passes() -> st.SearchStrategy[list[ScheduledPass]]:
    """Schedules of 1 to 24 passes, each with 0 to 12 accepted tokens and up to 6 wrong nodes."""
    wrong = st.tuples(st.integers(0, 20), st.integers(1, VOCABULARY - 1))
    one = st.builds(ScheduledPass, st.integers(0, 12), st.lists(wrong, max_size=6).map(tuple))
    return st.lists(one, min_size=1, max_size=24)
