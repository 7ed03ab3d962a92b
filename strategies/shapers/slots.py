"""Dynamic trees for drawn candidates: places are chosen before their tokens are read (ours)."""

from __future__ import annotations

from bisect import bisect
from heapq import heappop, heappush
from itertools import pairwise

import attrs
from attrs.validators import ge

from toolkit import Candidates, Expand, GrowMap, TokenTree, TreeShaper, Verdict, option

EDGES = (0.3, 0.8, 1.5, 2.5)  # nats: a node's bucket by the entropy of the drafter's law there
SURE = (0.95, 0.85, 0.75, 0.6, 0.45)  # acceptance of the first draw by bucket, before any is seen
UNKNOWN = 2  # the bucket of a node without a law
TRUST = 20  # verdicts that the assumed acceptance counts for


@attrs.define
class Slots(TreeShaper):
    """Dynamic tree for drawn candidates: its nodes are chosen as places for draws, not by their tokens.

    A place is the next draw of a node. It is worth the product of acceptances along its path, where the
    acceptance of a draw depends on its number and on the entropy of the drafter's law at its node. The
    places with the greatest worth are drawn. No draw is read before it is decided that it stays, so
    drawn candidates keep their law: the tree may be verified by `swor` and `traversal`. Acceptance is
    learned from verdicts. With one level of entropy this is the best static tree.
    """

    name = "slots"
    prunes = False
    nodes: int = option(24, help="most nodes to verify, root included", validator=ge(1))
    depth: int = option(6, help="levels below the root, each a pass of the drafter", validator=ge(1))
    width: int = option(4, help="most draws of a node", validator=ge(1))

    _tried: list[list[float]] = attrs.field(init=False)  # by bucket and number of the draw
    _accepted: list[list[float]] = attrs.field(init=False)
    _grown: TokenTree | None = attrs.field(init=False, default=None)  # the last tree
    _buckets: dict[int, int] = attrs.field(init=False, factory=dict)  # of its nodes

    def __attrs_post_init__(self) -> None:
        self._tried = [[float(TRUST)] * self.width for _ in SURE]
        self._accepted = [
            [TRUST * (sure if r == 0 else (1 - sure) * 0.5**r) for r in range(self.width)]
            for sure in SURE
        ]

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        acceptance = [self._acceptance(bucket) for bucket in range(len(SURE))]
        least = self._least_worth(acceptance[UNKNOWN])
        tree, new = root, [0]
        worth = {0: 1.0}
        heap: list[tuple[float, int, int]] = []  # −worth, node, number of the draw
        draws: dict[int, Candidates] = {}
        self._buckets = {}
        for level in range(self.depth):
            drafted = expand(tree, new, self.width)
            for row, (node, bucket) in enumerate(zip(new, _buckets_of(drafted), strict=True)):
                self._buckets[node], draws[node] = bucket, _row(drafted, row)
                if draws[node].tokens[0]:
                    heappush(heap, (-worth[node] * acceptance[bucket][0], node, 0))
            is_last = level == self.depth - 1 or not heap or -heap[0][0] <= least
            new = []
            while heap and len(tree) < self.nodes and (is_last or -heap[0][0] > least):
                value, node, number = heappop(heap)
                shares, drawn = acceptance[self._buckets[node]], draws[node]
                grown = tree.grow([node], _draw(drawn, number))
                if len(grown) > len(tree):  # else it has no probability, as all later draws
                    worth[len(tree)] = -value
                    new.append(len(tree))
                    tree = grown
                    if number + 1 < len(drawn.tokens[0]) and shares[number]:
                        value *= shares[number + 1] / shares[number]
                        heappush(heap, (value, node, number + 1))
            if is_last or len(tree) >= self.nodes:
                break
        self._grown = tree
        return tree

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        """Count which draw of each node on the path was accepted."""
        if tree is not self._grown:  # it was cut
            return
        children, below = tree.children(), dict(pairwise(verdict.path))
        for node in verdict.path:
            bucket = self._buckets.get(node, UNKNOWN)
            for number, child in enumerate(children[node]):
                self._tried[bucket][number] += 1
                self._accepted[bucket][number] += child == below.get(node)

    def _acceptance(self, bucket: int) -> list[float]:
        """The acceptance of each draw of a node in a bucket; it never rises."""
        both = zip(self._accepted[bucket], self._tried[bucket], strict=True)
        return GrowMap.smooth([accepted / tried for accepted, tried in both])

    def _least_worth(self, acceptance: list[float]) -> float:
        """The worth of the last node of the best static tree: what is worth no more can wait."""
        best = GrowMap.best(acceptance, self.nodes, self.depth)
        return min(best.values(acceptance)) * (1 + 1e-9)  # products may round differently


def _buckets_of(candidates: Candidates) -> list[int]:
    """The bucket of each row by the entropy of its law."""
    laws = candidates.laws
    if laws is None:
        return [UNKNOWN] * len(candidates.tokens)
    entropies = -(laws * laws.clamp_min(1e-300).log()).sum(1)
    return [bisect(EDGES, entropy) for entropy in entropies.tolist()]


def _row(candidates: Candidates, row: int) -> Candidates:
    """The candidates of one node."""
    laws = None if candidates.laws is None else candidates.laws[row : row + 1]
    return attrs.evolve(
        candidates, tokens=[candidates.tokens[row]], logprobs=[candidates.logprobs[row]], laws=laws
    )


def _draw(candidates: Candidates, number: int) -> Candidates:
    """One draw of one node."""
    return attrs.evolve(
        candidates,
        tokens=[candidates.tokens[0][number : number + 1]],
        logprobs=[candidates.logprobs[0][number : number + 1]],
        fixed=int(number < candidates.fixed),
    )
