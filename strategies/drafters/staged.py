"""A chain of drafters: each level is sped up by the level below it."""

from __future__ import annotations

from math import inf

import attrs
from attrs.validators import and_, deep_iterable, ge, min_len

from toolkit import Candidates, Choice, Drafter, Runtime, TokenTree, option

EMPTY = TokenTree([], [], [], [], [])


@attrs.define(eq=False)
class StagedDrafter(Drafter):
    """Staged speculative decoding (Spector and Ré 2023; CS-Drafting, Chen et al. 2024): a middle model
    drafts for the target, and a smaller drafter speeds up the middle model.

    It proposes exactly what the first level alone would propose. When the first level must be asked
    about a node, the level below drafts a chain under that node, and the first level answers for the
    whole chain at once, with one forward of its model. Where the shaper then grows a token of that
    chain, the answer is already known. A wrong chain costs time and changes no candidate.
    """

    name = "staged"
    proposals = frozenset({"fixed", "sampled", "iid"})
    levels: tuple[Choice[Drafter], ...] = option(
        ("model", "ngram"),
        help="drafters from the largest to the smallest, as [model:A]+[model:B]",
        kind="drafter",
        validator=min_len(1),
    )
    ahead: tuple[int, ...] = option(
        (4,),
        help="tokens that a lower level drafts for one pass of the level above, as 4 or 4x8; the last "
        "number also holds for the levels below",
        validator=and_(min_len(1), deep_iterable(ge(1))),
    )

    _slow: Drafter = attrs.field(init=False)
    _fast: Drafter | None = attrs.field(init=False, default=None)
    # Both see one tree: the shaper's nodes and those of the chains.
    _tree: TokenTree = attrs.field(init=False, default=EMPTY)
    _node_of: list[int] = attrs.field(init=False, factory=list)  # the shaper's node → ours
    _child: dict[tuple[int, int], int] = attrs.field(
        init=False, factory=dict
    )  # (node, token) → node
    _asked_slow: set[int] = attrs.field(init=False, factory=set)
    _asked_fast: set[int] = attrs.field(init=False, factory=set)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        first, *below = self.levels
        self._slow = first.build()
        self._slow.start(prompt, runtime)
        if below:
            self._fast = StagedDrafter(tuple(below), self.ahead[1:] or self.ahead)
            self._fast.start(prompt, runtime)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        if self._fast is None:
            return self._slow.expand(tree, frontier, k)
        self._follow(tree)
        wanted = [self._node_of[node] for node in frontier]
        new = [node for node in wanted if node not in self._asked_slow]
        asked = sorted({*wanted, *self._chains_below(new, self._fast)})
        self._asked_slow |= {*asked}
        answer = self._slow.expand(self._tree, asked, k)
        if len(asked) > len(wanted) and not any(answer.tokens):
            return self._slow.expand(
                self._tree, wanted, k
            )  # a chain may leave the model's positions
        return _rows_of(answer, [asked.index(node) for node in wanted])

    def commit(self, tokens: list[int]) -> None:
        self._slow.commit(tokens)
        if self._fast is not None:
            self._fast.commit(tokens)
        self._tree, self._node_of, self._child = EMPTY, [], {}
        self._asked_slow, self._asked_fast = set(), set()

    def _follow(self, tree: TokenTree) -> None:
        """Find or add the nodes that the shaper has grown since the last call."""
        if self._tree is EMPTY:
            self._tree, self._node_of = TokenTree.root(tree.tokens[0]), [0]
        for node in range(len(self._node_of), len(tree)):
            parent = self._node_of[tree.parents[node]]
            self._node_of.append(self._find_or_grow(parent, tree.tokens[node], tree.logprobs[node]))

    def _chains_below(self, nodes: list[int], fast: Drafter) -> list[int]:
        """The chains that the level below drafts under `nodes`: those that were not asked about yet."""
        found: list[int] = []
        for _ in range(self.ahead[0]):
            if not nodes:
                break
            asked = sorted({node for tip in nodes for node in self._not_asked_fast(tip)} | {*nodes})
            self._asked_fast |= {*asked}
            answer = fast.expand(self._tree, asked, 1)
            rows = [asked.index(node) for node in nodes]
            pairs = [
                (node, answer.tokens[row][0], answer.logprobs[row][0])
                for node, row in zip(nodes, rows, strict=True)
                if answer.tokens[row] and answer.logprobs[row][0] > -inf
            ]
            nodes = [self._find_or_grow(*pair) for pair in pairs]
            found += [node for node in nodes if node not in self._asked_slow]
        return found

    def _not_asked_fast(self, node: int) -> list[int]:
        """The ancestors of a node that the level below was not asked about: it is asked about a parent
        before its child, or together with it."""
        found = []
        while (node := self._tree.parents[node]) >= 0 and node not in self._asked_fast:
            found.append(node)
        return found

    def _find_or_grow(self, parent: int, token: int, logprob: float) -> int:
        """The child of `parent` with this token, new if there is none."""
        known = self._child.get((parent, token))
        if known is None:
            known = self._child[parent, token] = len(self._tree)
            self._tree = self._tree.grow([parent], Candidates([[token]], [[logprob]]))
        return known


def _rows_of(answer: Candidates, rows: list[int]) -> Candidates:
    """The answer's rows for some of the nodes that were asked about."""
    return attrs.evolve(
        answer,
        tokens=[answer.tokens[row] for row in rows],
        logprobs=[answer.logprobs[row] for row in rows],
        laws=None if answer.laws is None else answer.laws[rows],
    )
