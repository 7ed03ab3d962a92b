"""Hypothesis strategies for token trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch

from toolkit.conformance.models import VOCABULARY
from toolkit.tree import Candidates, TokenTree


@st.composite
def trees(
    draw: Callable[[st.SearchStrategy[Any]], Any], nodes: int = 16, vocabulary: int = VOCABULARY
) -> TokenTree:
    """Arbitrary trees of 1 to `nodes` nodes: chains, stars, duplicate siblings, any order."""
    tree = TokenTree.root(torch.tensor(draw(st.integers(0, vocabulary - 1))))
    for size in range(1, draw(st.integers(1, nodes))):
        parent = draw(st.integers(0, size - 1))
        token = draw(st.integers(0, vocabulary - 1))
        logprob = -draw(st.integers(0, 8)) / 4
        candidate = Candidates(torch.tensor([[token]]), torch.tensor([[logprob]]))
        tree = tree.grow(torch.tensor([parent]), candidate)
    return tree
