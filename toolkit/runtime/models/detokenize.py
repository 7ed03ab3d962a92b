"""Token ids → text, piece by piece."""

from __future__ import annotations

from attrs import define, field
from transformers import PreTrainedTokenizerBase

CONTEXT = 6  # prompt ids decoded again before the first new ones: a space depends on what precedes
UNFINISHED = "\ufffd"  # a character whose bytes are not all here


@define
class Detokenizer:
    """Turns committed ids into text as soon as it is certain. Without a tokenizer: empty text."""

    tokenizer: PreTrainedTokenizerBase | None
    prompt: list[int]
    _before: list[int] = field(init=False)  # ids that begin and end at a character's border
    _waiting: list[int] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._before = self.prompt[-CONTEXT:]
        while self._before and self._decode(self._before).startswith(UNFINISHED):
            self._before = self._before[1:]

    def add(self, ids: list[int]) -> str:
        """The text that `ids` complete; what they leave unfinished waits."""
        self._waiting += ids
        text = self._new()
        return "" if text.endswith(UNFINISHED) else self._flush(text)

    def rest(self) -> str:
        """What is left at the end, unfinished characters included."""
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
