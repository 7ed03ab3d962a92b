"""Properties of a tree shaper."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf, log

import attrs

from toolkit.conformance.comparison import Broken
from toolkit.conformance.tree_paths import path_to
from toolkit.interfaces import TreeShaper
from toolkit.tree import Candidates, TokenTree, Verdict

PATIENCE = 1000  # calls of `expand` in one `grow`, after which it counts as endless


@attrs.define
class Answers:
    """An `expand` without a drafter: `widths` says how many candidates each call returns, then none.

    `seed` decides the tokens. Some slots are empty or rows differ in length, unless candidates are
    `drawn`: then each row is full and in no order.
    """

    widths: Sequence[int]
    seed: int
    drawn: bool = False
    questions: list[tuple[list[int], int]] = attrs.field(factory=list)
    given: dict[int, list[int]] = attrs.field(factory=dict)  # tokens after each node

    def __call__(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        nodes, count = list(frontier), len(self.questions)
        if nodes != sorted(set(nodes)) or any(not 0 <= n < len(tree) for n in nodes) or k < 1:
            raise Broken(
                f"expand was called with k={k} and the frontier {nodes} of {len(tree)} nodes: "
                f"a frontier is a list of ascending node ids, and k is at least 1"
            )
        if count >= PATIENCE:
            raise Broken(f"grow called expand {PATIENCE} times and did not end")
        self.questions.append((nodes, k))
        width = min(k, self.widths[count]) if count < len(self.widths) else 0
        rng = random.Random(f"{self.seed} {count}")
        logprobs = self._logprobs(rng, len(nodes), width)
        tokens = [[rng.randrange(7) for _ in row] for row in logprobs]
        self.given |= dict(zip(nodes, tokens, strict=True))
        return Candidates(tokens, logprobs)

    def _logprobs(self, rng: random.Random, count: int, width: int) -> list[list[float]]:
        """Log-probabilities [count][≤width], descending unless candidates are drawn; in some rows they
        add up to less than 1."""
        weights, other = [0, 1, 1, 2, 9][self.drawn :], rng.choice([0, 1])
        shares = [sorted(rng.choices(weights, k=width), reverse=True) for _ in range(count)]
        if self.drawn:
            for row in shares:
                rng.shuffle(row)
        elif rng.choice([True, False]):
            shares = [[share for share in row if share] for row in shares]
        return [
            [log(share / (sum(row) + other)) if share else -inf for share in row] for row in shares
        ]


def any_answer_grows_a_tree(
    shaper: TreeShaper, steps: Sequence[tuple[Sequence[int], int]]
) -> list[TokenTree]:
    """Whatever the drafter answers, even nothing, a shaper returns a tree on the given root, within
    its budget; returns the trees."""
    trees = []
    for widths, seed in steps:
        root = TokenTree.root(seed % 7)
        tree = shaper.grow(root, Answers(widths, seed))
        if not tree.is_valid() or tree.tokens[0] != root.tokens[0]:
            raise Broken(f"parents {tree.parents} are not a tree on the given root")
        if len(tree) > shaper.nodes:
            raise Broken(f"{len(tree)} nodes with the root, but the shaper declares {shaper.nodes}")
        path = path_to(tree, random.Random(seed).randrange(len(tree)))
        shaper.observe(tree, Verdict(path, seed % 5))
        trees.append(tree)
    return trees


def keeps_the_first_draws(make: Callable[[], TreeShaper], widths: Sequence[int]) -> int:
    """A shaper that declares `prunes = False` decides how many candidates of a node it keeps before it
    reads them, and keeps the first ones in their order; returns their number."""
    asked = []
    for seed in range(6):
        answers = Answers(widths, seed, drawn=True)
        tree = make().grow(TokenTree.root(0), answers)
        asked.append((answers.questions, tree.parents))
        for node, children in enumerate(tree.children()):
            kept, drawn = [tree.tokens[child] for child in children], answers.given.get(node, [])
            if kept != drawn[: len(kept)]:
                raise Broken(f"of the candidates {drawn} in draw order, {kept} became nodes")
    if any(each != asked[0] for each in asked):
        raise Broken("with other candidates it called expand or kept nodes differently")
    return len(tree) - 1
