"""Properties of a drafter."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf
from typing import Any

import attrs
import torch
from torch import Tensor

from toolkit.conformance.comparison import Broken, require_close
from toolkit.conformance.tree_paths import nodes_at, path_to
from toolkit.interfaces import Drafter
from toolkit.tree import Candidates, TokenTree


def branches_drafted_alone(
    make: Callable[[], Drafter], prompt: list[int], root: int, depth: int = 3
) -> None:
    """The candidates after a node depend only on the path to it, not on other branches.

    `make` returns a new, started drafter.
    """
    drafter, tree, frontier = make(), TokenTree.root(root), [0]
    for _ in range(depth):
        candidates = drafter.expand(tree, frontier, 2)
        for row, node in enumerate(frontier):
            tokens, logprobs = _list_proposals(candidates, row)
            alone, wanted = _propose_alone(make(), tree, node)
            if tokens != alone:
                raise Broken(
                    f"node {node} of {tree.parents} drafted {tokens}, alone {alone}, after {prompt}"
                )
            require_close(logprobs, wanted, f"node {node}", 1e-4)
        first = len(tree)
        tree = tree.grow(frontier, candidates)
        frontier = list(range(first, len(tree)))
        if not frontier:
            return


def _propose_alone(drafter: Drafter, tree: TokenTree, node: int) -> tuple[list[int], Tensor]:
    """What a new drafter proposes after a node when the tree is only the path to it."""
    path = tree.subtree(path_to(tree, node))
    for tip in range(len(path)):
        answer = drafter.expand(path.first(tip + 1), [tip], 2)
    return _list_proposals(answer, 0)


def _list_proposals(candidates: Candidates, row: int) -> tuple[list[int], Tensor]:
    """The tokens and log-probabilities [K] of a row, without its empty slots."""
    both = zip(candidates.tokens[row], candidates.logprobs[row], strict=True)
    held = [(token, logprob) for token, logprob in both if logprob != -torch.inf]
    return [token for token, _ in held], _doubles([logprob for _, logprob in held])


def drafts_from_committed_only(
    make: Callable[[list[int]], Drafter],
    prompt: list[int],
    steps: list[tuple[TokenTree, list[int]]],
) -> None:
    """After any trees and commits, the candidates are those of a new drafter given the same text.

    `make` returns a new drafter, started on a prompt. Each step is a tree, whose nodes are all
    expanded, and the path of its nodes that is committed.
    """
    drafter, text = make(prompt), prompt
    for tree, path in steps:
        for depth in range(tree.depth + 1):
            drafter.expand(tree, nodes_at(tree, depth), 2)
        committed = [tree.tokens[node] for node in path]
        drafter.commit(committed)
        text = text + committed
        root = TokenTree.root(tree.tokens[0])
        ours, fresh = drafter.expand(root, [0], 3), make(text).expand(root, [0], 3)
        if ours.tokens != fresh.tokens:
            raise Broken(f"after {text}: {ours.tokens}, fresh {fresh.tokens}")
        require_close(_doubles(ours.logprobs), _doubles(fresh.logprobs), f"after {text}", 1e-4)
        drafter.commit(root.tokens)
        text = text + root.tokens


def candidates_in_order(drafter: Drafter, tree: TokenTree, k: int, vocabulary: int) -> None:
    """A node gets at most k candidates from the target's vocabulary, likeliest first, whose
    probabilities add up to at most 1; the given tree is not changed."""
    before = attrs.astuple(tree)
    for depth in range(tree.depth + 1):
        frontier = nodes_at(tree, depth)
        answer = drafter.expand(tree, frontier, k)
        _require_rows(answer, len(frontier), k)
        for tokens, logprobs in zip(answer.tokens, answer.logprobs, strict=True):
            _require_order(tokens, logprobs, vocabulary)
    if attrs.astuple(tree) != before:
        raise Broken("expand changed the given tree, whose lists are shared: copy them first")


def _require_rows(answer: Candidates, count: int, k: int) -> None:
    """Each node has a row of tokens and one of log-probabilities, of equal length, at most k."""
    if not all(isinstance(row, list) for row in (*answer.tokens, *answer.logprobs)):
        raise Broken("a row of candidates is not a list: call `tolist()` on tensors")
    tokens, logprobs = [*map(len, answer.tokens)], [*map(len, answer.logprobs)]
    if tokens != logprobs or len(tokens) != count:
        raise Broken(
            f"expand was asked about {count} nodes and answered with rows of {tokens} tokens and of "
            f"{logprobs} log-probabilities"
        )
    if max(tokens) > k:
        raise Broken(f"{max(tokens)} candidates for a node, but k is {k}")


def _require_order(tokens: list[int], logprobs: list[float], vocabulary: int) -> None:
    shown = f"tokens {tokens}, log-probabilities {[round(p, 3) for p in logprobs]}"
    given = [(t, p) for t, p in zip(tokens, logprobs, strict=True) if p != -inf]
    if not all(p <= 1e-6 for _, p in given):  # also catches NaN
        raise Broken(f"a log-probability above 0: {shown}")
    if any(not 0 <= t < vocabulary for t, _ in given):
        raise Broken(f"a token outside the target's vocabulary of {vocabulary}: {shown}")
    if logprobs != sorted(logprobs, reverse=True):
        raise Broken(f"the likeliest is not first: {shown}")
    total = sum(map(exp, dict(reversed(given)).values()))
    if total > 1.001:
        raise Broken(f"probabilities that add up to {total:.3g}: {shown}")


def _doubles(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.double)
