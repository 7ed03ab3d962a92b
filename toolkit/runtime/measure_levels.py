"""Measures how often one drafter's next token is another's, along a text of the target."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.interfaces import Drafter, Runtime
from toolkit.runtime.session import ModelSession
from toolkit.tree import TokenTree

Begin = Callable[[], tuple[ModelSession, Runtime, Drafter]]


def predict_text(begin: Begin, prompt: list[int], text: list[int]) -> list[int | None]:
    """The drafter's likeliest token after each of `text[T]`, a continuation of `prompt[P]`; None where
    it has none."""
    target, runtime, drafter = begin()
    target.prefill(prompt)
    drafter.start(list(prompt), runtime)
    found: list[int | None] = []
    for token in text:
        (tokens,) = drafter.expand(TokenTree.root(token), [0], 1).tokens
        found.append(tokens[0] if tokens else None)
        target.forward([token], [-1])  # for a drafter that shares the target's K/V
        target.commit([0])
        drafter.commit([token])
    return found


def share_equal(ours: list[int | None], theirs: list[int | None]) -> float:
    """The share of positions at which both predict the same token."""
    pairs = list(zip(ours, theirs, strict=True))
    return sum(a == b and a is not None for a, b in pairs) / len(pairs)
