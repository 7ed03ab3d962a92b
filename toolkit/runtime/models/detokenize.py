"""Token ids → text, piece by piece."""

from __future__ import annotations

from attrs import define, field
from transformers import PreTrainedTokenizerBase

CONTEXT = 6  # prompt ids decoded with the first new ones, because spaces depend on the ids before
UNFINISHED = "\ufffd"  # stands for a character of which bytes are missing


@define
class Detokenizer:
    """Turns committed ids into text as soon as the text is final; empty text without a tokenizer.

    `tokenizers`' `DecodeStream` cannot replace it: it has no end, so it loses an unfinished character.
    """

    tokenizer: PreTrainedTokenizerBase | None
    prompt: list[int]
    _before: list[int] = field(
        init=False
    )  # decoded ids, from a whole character to a whole character
    _waiting: list[int] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._before = self.prompt[-CONTEXT:]
        while self._before and self._decode(self._before).startswith(UNFINISHED):
            self._before = self._before[1:]

    def add(self, ids: list[int]) -> str:
        """The text that `ids` complete; an unfinished character waits for more."""
        self._waiting += ids
        text = self._new()
        return "" if text.endswith(UNFINISHED) else self._flush(text)

    def rest(self) -> str:
        """The rest of the text, with an unfinished character as U+FFFD."""
        return self._flush(self._new())

    def _new(self) -> str:
        return self._decode(self._before + self._waiting)[len(self._decode(self._before)) :]

    def _decode(self, ids: list[int]) -> str:
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _flush(self, text: str) -> str:
        if self._waiting:
            self._before, self._waiting = self._waiting, []
        return text
