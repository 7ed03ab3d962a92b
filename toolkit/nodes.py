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
    proposal: Literal["fixed", "sampled"] | None = column(
        "fixed: chosen by the drafter without chance; sampled: drawn by it; null: not drafted"
    )
    draft_logprob: float | None = column(
        "drafter's log-probability after the parent, natural log; null: not drafted"
    )
    target_logprob: float | None = column(
        "target's log-probability after the parent, natural log; null at the root"
    )
    target_rank: int | None = column("tokens that the target finds likelier; null at the root")
    target_entropy: float | None = column(
        "of the target's next token after this node, in nats; null where no node follows"
    )
    top_tokens: list[int] = column(
        "ids of the target's 5 likeliest next tokens, likeliest first; empty where nothing follows"
    )
    top_pieces: list[str] = column("the target's likeliest next tokens as text")
    top_logprobs: list[float] = column(
        "target's log-probabilities of its likeliest next tokens, natural log"
    )
    coin: float | None = column(
        "probability of acceptance with which a verifier of draws tested it; null: not tested so"
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
            proposal=_proposal(tree, node) if drafted and node else None,
            draft_logprob=tree.logprobs[node] if drafted and node else None,
            target_logprob=scores.logprobs[node] if node else None,
            target_rank=scores.ranks[node] if node else None,
            target_entropy=scores.entropies[node] if drafted else None,
            top_tokens=scores.top_tokens[node] if drafted else [],
            top_pieces=[*map(piece, scores.top_tokens[node])] if drafted else [],
            top_logprobs=scores.top_logprobs[node] if drafted else [],
            coin=_coin(verdict, node) if drafted and fates[node] != "passed" else None,
            fate=fates[node] if drafted else "bonus",
        )


def _coin(verdict: Verdict, node: int) -> float | None:
    coin = verdict.coins.get(node)
    return None if coin is None else min(1.0, float(coin))


def _proposal(tree: TokenTree, node: int) -> Literal["fixed", "sampled"]:
    drawn = tree.parents[node] in tree.laws and node not in tree.fixed
    return "sampled" if drawn else "fixed"


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
        elif parent not in path:  # `traversal` tests such nodes, too
            fates.append("rejected" if node in verdict.coins else "unreached")
        elif taken.get(parent) == node:
            fates.append("bonus")
        else:
            fates.append("passed" if taken.get(parent, node) < node else "rejected")
    return fates
