"""TranslatedDraft: a drafter's session of a model that has another tokenizer than the target."""

from __future__ import annotations

from math import exp, inf, log1p
from typing import TYPE_CHECKING

from attrs import define, evolve, field, frozen

from toolkit.interfaces import Session, Translation
from toolkit.likeliest import likeliest
from toolkit.tree import Candidates, TokenTree

if TYPE_CHECKING:
    from torch import Tensor

Ids = tuple[int, ...]

UNFINISHED = "\ufffd"  # stands for a character of which bytes are missing
CONTEXT = 6  # ids before a text that are decoded with it, because spaces depend on them
WINDOW = 32  # characters before a text that are encoded with it, for the same reason
HELD_BACK = 8  # last draft tokens of a text that the next ones may still change: never committed
LONGEST_TAIL = (
    32  # draft tokens after which a text is also cut within a word, as where no spaces are
)
MOST_TOKENS = 12  # draft tokens in search of one target token
RARE = 0.02  # probability below which a second continuation is not worth its forwards


@frozen
class Text:
    """A text by the target's ids: what is known of it so far, or up to a tree node."""

    text: str = ""
    last: list[int] = field(factory=list)  # the last ids, for decoding those that follow
    waiting: list[int] = field(factory=list)  # ids of a character that is not finished

    def plus(self, ids: list[int], translation: Translation) -> Text:
        """The text with more ids."""
        waiting = self.waiting + ids
        more = translation.target_text(self.last, waiting)
        if more.endswith(UNFINISHED):
            return evolve(self, waiting=waiting)
        return Text(self.text + more, (self.last + waiting)[-CONTEXT:])


@define(eq=False)
class Prefixes:
    """Scratch rows of a session, by the tokens from the committed ones to the row's own."""

    session: Session
    rows: dict[Ids, int] = field(factory=dict, init=False)
    logits: list[Tensor] = field(factory=list, init=False)  # [·, V] of the rows, in order

    def logits_after(self, texts: list[Ids]) -> Tensor | None:
        """Logits [F, V] after `texts[F]`, none of them empty; None when one is beyond the positions."""
        if self.session.length + max(map(len, texts)) > self.session.positions:
            return None
        every = {text[:end] for text in texts for end in range(1, len(text) + 1)}
        new = sorted(every - self.rows.keys(), key=len)
        if new:
            self.rows.update(
                zip(new, range(self.session.scratch, len(self.rows) + len(new)), strict=True)
            )
            above = [self.rows[text[:-1]] if len(text) > 1 else -1 for text in new]
            self.logits.append(self.session.forward([text[-1] for text in new], above))
        import torch

        logits = self.logits[0] if len(self.logits) == 1 else torch.cat(self.logits)
        return logits[[self.rows[text] for text in texts]]

    def commit(self, tokens: Ids) -> None:
        """Commit tokens, with their rows where they were forwarded, and drop all other rows."""
        most = min(len(tokens), self.session.max_draft_depth + 1)
        path = [self.rows[tokens[:end]] for end in range(1, most + 1) if tokens[:end] in self.rows]
        self.session.commit(path)
        self.rows, self.logits = {}, []
        if rest := list(tokens[len(path) :]):
            self.session.prefill(rest)


@define(eq=False)
class TranslatedDraft:
    """One model that drafts along the trees of one request, in tokens of its own.

    It reads the text of the target's tokens. Where the vocabularies share most tokens, it gives logits
    of the target's tokens, one forward per level (token-level intersection). Elsewhere each of its
    likeliest tokens is continued greedily until the text has a whole token of the target, which takes
    several forwards per level (string-level matching). Both are methods of Timor et al. 2025,
    "Accelerating LLM Inference with Lossless Speculative Decoding Algorithms for Heterogeneous
    Vocabularies".

    Candidates are a function of the committed text and the node's path. Make it with `start`.
    """

    translation: Translation
    _prefixes: Prefixes
    _vocabulary: int  # the target's V
    _committed: Text  # from the window on
    _window: int  # characters of it whose draft tokens are cached
    _cached: list[int]  # the last draft tokens that are cached
    _started: bool = False  # as long as the text is within the model's positions

    @classmethod
    def start(
        cls, session: Session, prompt: list[int], translation: Translation, vocabulary: int
    ) -> TranslatedDraft:
        """Forward the text of `prompt[P]`, but its end; `vocabulary` is the target's V."""
        text = Text().plus(prompt, translation)
        draft = cls(translation, Prefixes(session), vocabulary, text, 0, [])
        tail = draft._tail(text)
        kept, characters = draft._settled(tail)
        if 1 + len(tail) < session.positions:
            draft._started = True
            session.prefill([translation.first, *tail[:kept]])
            draft._cut(tail[:kept], characters)
        return draft

    @property
    def by_logits(self) -> bool:
        """Whether to ask for `logits_after`; else for `candidates_after`."""
        return self.translation.shared is not None

    def commit(self, tokens: list[int]) -> None:
        """Commit `tokens[A]`, as `Drafter.commit` is told of them, and drop all drafts."""
        if not self._started:
            return
        self._committed = self._committed.plus(tokens, self.translation)
        tail = self._tail(self._committed)
        kept, characters = self._settled(tail) if len(tail) > 2 * HELD_BACK else (0, 0)
        session = self._prefixes.session
        self._started = session.length + len(tail) < session.positions
        if self._started:
            self._prefixes.commit(tail[:kept])
            self._cut(tail[:kept], characters)

    def logits_after(self, tree: TokenTree, nodes: list[int]) -> Tensor | None:
        """Logits [F, V] of the target's tokens after `nodes[F]`, −inf for those that are not shared.
        None when a node is beyond the model's positions."""
        logits = self._logits([self._tail(text) for text in self._texts(tree, nodes)])
        if logits is None or self.translation.shared is None:
            return None
        target, draft = self.translation.shared
        translated = logits.new_full((len(nodes), self._vocabulary), -inf)
        translated[:, target] = logits[:, draft]
        return translated

    def candidates_after(self, tree: TokenTree, nodes: list[int], k: int) -> Candidates:
        """Up to `k` of the target's tokens after each of `nodes[F]`: the first one of each continuation
        that begins with one of the model's `k` likeliest tokens, if that is not a rare one. Their
        log-probabilities are those of the draft tokens that they are made of."""
        texts = self._texts(tree, nodes)
        logits = self._logits([self._tail(text) for text in texts])
        if logits is None:
            return Candidates.none(len(nodes))
        found = likeliest(logits, min(k, logits.shape[1]))
        branches = [
            Branch(node, text, self._cached, self._tail(text), [token], [logprob])
            for node, text, *row in zip(range(len(nodes)), texts, *found, strict=True)
            for place, (token, logprob) in enumerate(zip(*row, strict=True))
            if not text.waiting and (place == 0 or exp(logprob) >= RARE)
        ]
        self._continue(branches)
        return _candidates(branches, len(nodes), self.translation)

    def _continue(self, branches: list[Branch]) -> None:
        """Draft greedily until each branch has a whole token of the target."""
        open_ones = branches
        for _ in range(MOST_TOKENS):
            open_ones = [branch for branch in open_ones if not branch.read(self.translation)]
            logits = open_ones and self._logits([branch.prefix for branch in open_ones])
            if logits is None or not len(logits):
                return
            found = likeliest(logits, 1)  # type: ignore[arg-type]
            for branch, (token,), (logprob,) in zip(open_ones, *found, strict=True):
                branch.add(token, logprob)

    def _logits(self, tails: list[Ids]) -> Tensor | None:
        """Logits [F, V] of the model's own tokens; None where it can say nothing."""
        if not self._started or not all(tails):
            return None
        return self._prefixes.logits_after(tails)

    def _texts(self, tree: TokenTree, nodes: list[int]) -> list[Text]:
        """The text up to each node, from the window on."""
        return [self._committed.plus(tree.path_tokens(node), self.translation) for node in nodes]

    def _tail(self, text: Text) -> Ids:
        """The draft tokens of a text after the cached ones."""
        known, more = text.text[: self._window], text.text[self._window :]
        return tuple(self.translation.draft_ids(known, more))

    def _settled(self, tail: Ids) -> tuple[int, int]:
        """How many of the committed text's draft tokens will not change, and of how many characters:
        those before its last words."""
        text = self._committed.text[self._window :]
        for kept in range(len(tail) - HELD_BACK, 0, -1):
            said = self.translation.draft_text(self._cached, list(tail[:kept]))
            rest = text[len(said) :]
            at_word = rest[:1].isspace() and not said[-1:].isspace()
            if text.startswith(said) and (at_word or len(tail) > LONGEST_TAIL):
                return kept, len(said)
        return 0, 0

    def _cut(self, tokens: Ids, characters: int) -> None:
        """Count draft tokens and their characters as cached, and forget what lies before the window."""
        self._cached = [*self._cached, *tokens][-CONTEXT:]
        cached = self._window + characters
        self._window = min(cached, WINDOW)
        text = self._committed.text[cached - self._window :]
        self._committed = evolve(self._committed, text=text)


@define(eq=False)
class Branch:
    """A continuation of a node's text, one draft token after another."""

    row: int  # of the node, in the frontier
    before: Text
    cached: list[int]  # the last draft tokens that are cached
    tail: Ids  # those of the text before that follow them
    tokens: list[int]
    logprobs: list[float]
    lengths: list[int] = field(factory=list)  # characters of the text after each token
    ids: list[int] = field(factory=list)  # of the target, for the text so far

    @property
    def prefix(self) -> Ids:
        return (*self.tail, *self.tokens)

    def add(self, token: int, logprob: float) -> None:
        self.tokens.append(token)
        self.logprobs.append(logprob)

    def read(self, translation: Translation) -> bool:
        """Translate the tokens so far; says whether the first target token will not change any more:
        whether a word or three tokens follow it."""
        said = translation.draft_text([*self.cached, *self.tail][-CONTEXT:], self.tokens).rstrip(
            UNFINISHED
        )
        ended = len(said) == (self.lengths or [0])[-1]  # by a special token, or within a character
        self.lengths.append(len(said))
        self.ids = translation.target_ids(self.before.text[-WINDOW:], said) if said else []
        word = said.strip() != "" and any(character.isspace() for character in said.lstrip()[1:])
        return (word and len(self.ids) > 1) or len(self.ids) > 3 or (ended and bool(self.ids))

    def first(self, translation: Translation) -> tuple[int, float]:
        """The first target token, and the log-probability of the draft tokens that begin in it."""
        length = len(translation.target_text(self.before.last, self.ids[:1]))
        begun = sum(end < length for end in self.lengths) + 1
        return self.ids[0], sum(self.logprobs[:begun])


def _candidates(branches: list[Branch], count: int, translation: Translation) -> Candidates:
    """The branches' first tokens, by node, likeliest first; branches of one token are added up."""
    found: list[dict[int, float]] = [{} for _ in range(count)]
    for branch in branches:
        if branch.ids:
            token, logprob = branch.first(translation)
            found[branch.row][token] = _add(found[branch.row].get(token, -inf), logprob)
    rows = [sorted(row.items(), key=lambda pair: (-pair[1], pair[0])) for row in found]
    return Candidates(
        [[token for token, _ in row] for row in rows],
        [[min(logprob, 0.0) for _, logprob in row] for row in rows],
    )


def _add(one: float, other: float) -> float:
    """The logarithm of a sum of probabilities that are given as logarithms."""
    large, small = max(one, other), min(one, other)
    return large + log1p(exp(small - large))
