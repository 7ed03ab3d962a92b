"""Node: one node of a verified tree as a row, with its scores by drafter and target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

from attrs import frozen

from toolkit.columns import column
from toolkit.target_scores import TargetScores
from toolkit.tree import TokenTree, Verdict

Fate = Literal["root", "accepted", "bonus", "rejected", "passed", "unreached"]


@frozen(kw_only=True)
class Node:
    """One node of one step. The tokens that a step commits are its accepted nodes and its bonus.

    The bonus is a row of its own, after the tree's. Where a request ends within an accepted path, the
    bonus is the drafted node that was committed last.
    """

    node: int = column("index in the tree; 0 is the root, N a bonus that was not drafted")
    parent: int = column("index of the parent; −1 at the root")
    depth: int = column("0 at the root")
    place: int = column("position among its siblings as they were drafted, 0 first")
    token: int = column("token id")
    piece: str = column("the token as text; bytes of an unfinished character as ⟨e2 96⟩")
    draft_logprob: float | None = column(
        "drafter's log-probability after the parent, natural log; null: not drafted"
    )
    target_logprob: float | None = column(
        "target's log-probability after the parent, natural log; null at the root"
    )
    target_rank: int | None = column("tokens that the target finds likelier; null at the root")
    target_entropy: float | None = column(
        "of the target's next token after this node, in nats; null: not computed"
    )
    top_token: int | None = column("id of the target's likeliest next token; null: not computed")
    top_piece: str | None = column("the target's likeliest next token as text; null: not computed")
    top_logprob: float | None = column(
        "target's log-probability of its likeliest next token, natural log; null: not computed"
    )
    fate: Fate = column(
        "root; accepted; bonus: the last token that the step commits; rejected: it was tested; "
        "passed: an earlier sibling was accepted; unreached: its parent was not accepted"
    )


def list_nodes(
    tree: TokenTree, verdict: Verdict, scores: TargetScores, piece: Callable[[int], str]
) -> Iterator[Node]:
    """The rows of one step; `piece` gives a token's text."""
    fates = find_fates(tree, verdict)
    size, last = len(tree), verdict.path[-1]
    own_row = "bonus" not in fates
    counts: dict[int, int] = {}
    for node in range(size + own_row):
        drafted = node < size
        parent = tree.parents[node] if drafted else last
        token = tree.tokens[node] if drafted else verdict.bonus
        place = counts.get(parent, 0)
        counts[parent] = place + 1
        yield Node(
            node=node,
            parent=parent,
            depth=tree.depths[node] if drafted else tree.depths[last] + 1,
            place=place,
            token=token,
            piece=piece(token),
            draft_logprob=tree.logprobs[node] if drafted and node else None,
            target_logprob=scores.logprobs[node] if node else None,
            target_rank=scores.ranks[node] if node else None,
            target_entropy=scores.entropies[node] if drafted else None,
            top_token=scores.top_tokens[node] if drafted else None,
            top_piece=piece(scores.top_tokens[node]) if drafted else None,
            top_logprob=scores.top_logprobs[node] if drafted else None,
            fate=fates[node] if drafted else "bonus",
        )


def find_fates(tree: TokenTree, verdict: Verdict) -> list[Fate]:
    """What became of each of N nodes. One of them is the bonus only where the request ended in it."""
    path, last = set(verdict.path), verdict.path[-1]
    taken = dict(pairwise(verdict.path))  # parent → its child on the path
    for node, parent in enumerate(tree.parents):
        if parent == last and tree.tokens[node] == verdict.bonus:
            taken.setdefault(last, node)
    fates: list[Fate] = ["root"]
    for node, parent in enumerate(tree.parents[1:], 1):
        if node in path:
            fates.append("accepted")
        elif parent not in path:
            fates.append("unreached")
        elif taken.get(parent) == node:
            fates.append("bonus")
        else:
            fates.append("passed" if taken.get(parent, node) < node else "rejected")
    return fates
