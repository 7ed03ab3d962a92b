"""Broken drafters."""

from __future__ import annotations

from math import inf, log

import attrs
import torch
from torch import Tensor

from toolkit.errors import MismatchError
from toolkit.interfaces import Drafter, Runtime, Session, option
from toolkit.tree import Candidates, TokenTree


@attrs.define(eq=False)
class SharedBranch(Drafter):
    """Siblings share one cache: each is forwarded as the child of the one before it."""

    name = "shared-branch"
    id: str = option("", help="model", model=True)
    _session: Session = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._session = runtime.session(self.id)
        self._session.prefill(prompt)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        first = self._session.scratch - 1
        above = list(range(first, first + len(frontier)))
        logits = self._session.forward([tree.tokens[node] for node in frontier], above)
        logprobs, tokens = logits.log_softmax(-1).topk(k)
        return Candidates(tokens.tolist(), logprobs.tolist())

    def commit(self, tokens: list[int]) -> None:
        self._session.commit([])
        self._session.prefill(tokens)


@attrs.define(eq=False)
class _Plain(Drafter):
    """A correct but slow model drafter that forwards the whole tree each time. Bugs derive from it."""

    name = "plain"
    id: str = option("", help="model", model=True)
    _session: Session = attrs.field(init=False)
    _known: int = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._session, self._known = runtime.session(self.id), runtime.vocabulary
        self._session.prefill(self._own(prompt))

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        logprobs, tokens = self._law(tree, frontier).topk(k)
        return Candidates(tokens.tolist(), logprobs.tolist())

    def commit(self, tokens: list[int]) -> None:
        self._session.prefill(self._own(tokens))

    def _law(self, tree: TokenTree, frontier: list[int]) -> Tensor:
        return self._logits(tree, frontier)[:, : self._known].log_softmax(-1)

    def _logits(self, tree: TokenTree, frontier: list[int]) -> Tensor:
        logits = self._session.forward(self._own(tree.tokens), tree.parents)[frontier]
        self._session.commit([])
        return logits

    def _own(self, tokens: list[int]) -> list[int]:
        """Replace ids outside this model's vocabulary by its last id."""
        return [min(token, self._session.vocabulary - 1) for token in tokens]


@attrs.define(eq=False)
class OwnVocabulary(_Plain):
    """Proposes tokens of the draft model that the target does not have, padding included."""

    name = "own-vocabulary"

    def _law(self, tree: TokenTree, frontier: list[int]) -> Tensor:
        return self._logits(tree, frontier).log_softmax(-1)


@attrs.define(eq=False)
class RefusesPadding(_Plain):
    """Rejects a draft model whose vocabulary is only padded to another size."""

    name = "refuses-padding"

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        if runtime.session(self.id).vocabulary != runtime.vocabulary:
            raise MismatchError("the vocabularies differ in size")
        super().start(prompt, runtime)


@attrs.define(eq=False)
class RawLogits(_Plain):
    """Returns logits as log-probabilities."""

    name = "raw-logits"

    def _law(self, tree: TokenTree, frontier: list[int]) -> Tensor:
        return self._logits(tree, frontier)[:, : self._known]


@attrs.define(eq=False)
class LikeliestLast(_Plain):
    """Returns its candidates in the wrong order."""

    name = "likeliest-last"

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        candidates = super().expand(tree, frontier, k)
        return Candidates(
            [row[::-1] for row in candidates.tokens], [row[::-1] for row in candidates.logprobs]
        )


@attrs.define(eq=False)
class MoreThanAsked(_Plain):
    """Returns one candidate more than k."""

    name = "more-than-asked"

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        return super().expand(tree, frontier, k + 1)


@attrs.define(eq=False)
class ChangesTheTree(_Plain):
    """Overwrites the tokens that it has expanded in the shared tree."""

    name = "changes-the-tree"

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        answer = super().expand(tree, frontier, k)
        for node in frontier:
            tree.tokens[node] = 0
        return answer


@attrs.define(eq=False)
class KeepsRejected(_Plain):
    """Does not roll its cache back: it keeps the first rows of the tree, accepted or not."""

    name = "keeps-rejected"
    _rows: int = attrs.field(init=False, default=0)

    def _logits(self, tree: TokenTree, frontier: list[int]) -> Tensor:
        self._session.commit([])
        self._rows = len(tree)
        return self._session.forward(tree.tokens, tree.parents)[frontier]

    def commit(self, tokens: list[int]) -> None:
        kept = min(self._rows, len(tokens))
        self._session.commit(list(range(kept)))
        self._rows = 0
        if kept < len(tokens):
            self._session.prefill(tokens[kept:])


@attrs.define(eq=False)
class RemembersRejected(Drafter):
    """Proposes from all tokens that it was asked about, accepted or not."""

    name = "remembers-rejected"
    _last: int = attrs.field(init=False, default=1)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        self._last = (self._last + sum(tree.tokens[node] for node in frontier)) % 89
        return Candidates([[self._last]] * len(frontier), [[0.0]] * len(frontier))

    def commit(self, tokens: list[int]) -> None:
        pass


@attrs.define(eq=False)
class ForgetsTheRoot(Drafter):
    """Proposes what followed a token before, but ignores the first token of every commit."""

    name = "forgets-the-root"
    _next: dict[int, int] = attrs.field(init=False, factory=dict)
    _last: int = attrs.field(init=False)

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self._last = prompt[0]
        self._learn(prompt[1:])

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        tokens = [[self._next.get(tree.tokens[node], 5)] for node in frontier]
        return Candidates(tokens, [[-0.7]] * len(frontier))

    def commit(self, tokens: list[int]) -> None:
        self._learn(tokens[1:])

    def _learn(self, tokens: list[int]) -> None:
        for token in tokens:
            self._next[self._last] = token
            self._last = token


_committed: list[int] = []


@attrs.define(eq=False)
class LearnsForEver(Drafter):
    """Proposes the latest committed tokens, of this request or of earlier ones."""

    name = "learns-for-ever"

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        tokens = _committed[-k:]
        logprobs = [log(1 / (k + 1))] * len(tokens)
        return Candidates([tokens] * len(frontier), [logprobs] * len(frontier))

    def commit(self, tokens: list[int]) -> None:
        _committed.extend(tokens)


@attrs.define(eq=False)
class TossesForTokens(Drafter):
    """Draws its candidates with the global random generator."""

    name = "tosses-for-tokens"

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        tokens = torch.randint(0, 90, (len(frontier), 1))
        return Candidates(tokens.tolist(), [[-4.5]] * len(frontier))

    def commit(self, tokens: list[int]) -> None:
        pass


@attrs.define(eq=False)
class Silent(Drafter):
    """Loses all its candidates: nothing is ever wrong, because nothing is drafted."""

    name = "silent"

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        pass

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        tokens = [[tree.tokens[node]] * k for node in frontier]
        return Candidates(tokens, [[-inf] * k] * len(frontier))

    def commit(self, tokens: list[int]) -> None:
        pass
