"""Prompts from conversations: seeded sampling, cutting to a number of tokens, turns; excerpts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from toolkit import Conversation, ToolkitError, encode_messages, is_chat_model

if TYPE_CHECKING:
    from toolkit import Pipeline

CHARACTERS = 24  # of text kept per token before it is tokenised: a book is long


@frozen
class Talk:
    """A sampled conversation: its row in the data set, and its turns as text."""

    dataset: str
    index: int  # row in the data set
    turns: tuple[str, ...]
    chat: bool


def sample_conversations(
    name: str, conversations: Sequence[Conversation], count: int, seed: int, keep: Any
) -> list[tuple[int, Conversation]]:
    """Draw `count` rows that `keep` accepts, in a seeded order. Raises `ToolkitError`."""
    rows = list(range(len(conversations)))
    random.Random(seed).shuffle(rows)  # noqa: S311 a choice of prompts
    found: Iterator[int] = (
        row
        for row in rows
        if conversations[row] and all(conversations[row]) and keep(conversations[row])
    )
    taken = [row for row, _ in zip(found, range(count), strict=False)]
    if not conversations or not taken:
        raise ToolkitError(f"data set {name} is empty: it holds no prompt that can be used")
    if len(taken) < count:
        raise ToolkitError(
            f"data set {name} has only {len(taken)} usable prompts, and {count} are asked for "
            f"(held-out ones counted): ask for fewer"
        )
    return [(row, conversations[row]) for row in taken]


@frozen
class Encoder:
    """Turns text into token ids with the target's tokenizer. `chats`: questions are messages to it."""

    tokenizer: Any
    chats: bool

    @classmethod
    def of(cls, pipeline: Pipeline) -> Encoder:
        """The encoder of a pipeline's target. Questions are messages to the models that `toolkit run`
        sends them to."""
        tokenizer = pipeline.pool.find(pipeline.target).tokenizer
        return cls(tokenizer, is_chat_model(pipeline.target, pipeline.pool))

    def cut(self, text: str, limit: int) -> list[int]:
        """The first `limit` tokens of a text."""
        ids: list[int] = self.tokenizer(text[: CHARACTERS * limit]).input_ids
        return ids[:limit]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def ids(self, talk: Talk, turn: int, limit: int, answers: Sequence[str]) -> list[int]:
        """The prompt of one turn: every turn so far, cut to `limit` tokens, with the answers between.

        Chat data sets are messages to instruct models, in the chat template, and texts to others.
        """
        said = talk.turns[: turn + 1]
        as_messages = talk.chat and self.chats
        if len(said) == 1 and not as_messages:
            return self.cut(said[0], limit)
        texts = [self.decode(self.cut(text, limit)) for text in said]
        if as_messages:
            messages = [{"role": "user", "content": texts[0]}]
            for answer, text in zip(answers, texts[1:], strict=True):
                messages += [
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": text},
                ]
            return encode_messages(messages, self.tokenizer)
        mixed = [texts[0]]
        for answer, text in zip(answers, texts[1:], strict=True):
            mixed += [answer, text]
        plain: list[int] = self.tokenizer("\n\n".join(mixed)).input_ids
        return plain


def cut_excerpts(
    pipeline: Pipeline, text: str, name: str, prompt: int, tokens: int, samples: int
) -> list[list[int]]:
    """At most `samples` excerpts [prompt + tokens] of a text. Raises `ToolkitError`."""
    ids, size = pipeline.ids(text), prompt + tokens
    if size > pipeline.positions:
        raise ToolkitError(
            f"an excerpt of {size} tokens does not fit into the {pipeline.positions} positions of "
            f"target {pipeline.target!r}: lower --prompt-tokens or --tokens"
        )
    if len(ids) < size:
        raise ToolkitError(
            f"text {name} has {len(ids)} tokens, but an excerpt takes {size} ({prompt} of prompt, "
            f"{tokens} scored): give a longer one or lower them"
        )
    return [ids[end - size : end] for end in range(size, len(ids) + 1, size)][:samples]
