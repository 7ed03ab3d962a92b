"""Hypothesis strategies for tests of your own: token trees, schedules, prompts, tiny models.

Public, like the names in `toolkit`: `from toolkit.conformance.strategies import trees`. All draw from
the vocabulary of the tiny models, so that any of them goes with any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.conformance.models import FAMILIES, VOCABULARY, tiny
from toolkit.tree import Candidates, TokenTree

Draw = Callable[[st.SearchStrategy[Any]], Any]
Schedule = list[tuple[TokenTree, Tensor]]


def prompts() -> st.SearchStrategy[tuple[int, ...]]:
    """Prompts of 1 to 24 ids, some of them repeating, so that look-up finds something."""
    fresh = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=12)
    return st.builds(lambda ids, times: tuple(ids * times), fresh, st.integers(1, 2))


@st.composite
def trees(draw: Draw, nodes: int = 16, vocabulary: int = VOCABULARY) -> TokenTree:
    """Arbitrary trees of 1 to `nodes` nodes: chains, stars, duplicate siblings, any order."""
    tree = TokenTree.root(torch.tensor(draw(st.integers(0, vocabulary - 1))))
    for size in range(1, draw(st.integers(1, nodes))):
        parent = draw(st.integers(0, size - 1))
        token = draw(st.integers(0, vocabulary - 1))
        logprob = -draw(st.integers(0, 8)) / 4
        candidate = Candidates(torch.tensor([[token]]), torch.tensor([[logprob]]))
        tree = tree.grow(torch.tensor([parent]), candidate)
    return tree


@st.composite
def schedules(draw: Draw, steps: int = 3, nodes: int = 8) -> Schedule:
    """Speculation as it might go: 1 to `steps` pairs of a tree and the path [A] of it that is
    committed, root first."""
    made = []
    for tree in draw(st.lists(trees(nodes), min_size=1, max_size=steps)):
        node = draw(st.integers(0, len(tree) - 1))
        made.append((tree, tree.ancestors()[node].nonzero().flatten()))
    return made


def models() -> st.SearchStrategy[PreTrainedModel]:
    """Tiny random float64 models of every tested architecture; shared, so leave them as they are."""
    return st.builds(tiny, st.sampled_from(sorted(FAMILIES)), st.integers(0, 5))
