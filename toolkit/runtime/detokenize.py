"""Token ids → text, piece by piece."""

from __future__ import annotations

from attrs import define, field
from transformers import PreTrainedTokenizerBase

CONTEXT = 6  # ids decoded again before new ones: a piece's spaces depend on what is before it
UNFINISHED = "\ufffd"  # a character whose bytes are not all here yet


def _tail(ids: list[int]) -> list[int]:
    return ids[-CONTEXT:]


@define
class Detokenizer:
    """Turns committed ids into text as soon as it is certain. Without a tokenizer: empty text."""

    tokenizer: PreTrainedTokenizerBase | None
    before: list[int] = field(converter=_tail)
    _waiting: list[int] = field(factory=list, init=False)

    def add(self, ids: list[int]) -> str:
        """The text that `ids` complete."""
        self._waiting += ids
        text = self.all(self._waiting)
        return "" if text.endswith(UNFINISHED) else self._flush(text)

    def rest(self) -> str:
        """What is left at the end, unfinished characters included."""
        return self._flush(self.all(self._waiting))

    def all(self, ids: list[int]) -> str:
        """The text that `ids` add after `before`."""
        if self.tokenizer is None or not ids:
            return ""
        decode = self.tokenizer.decode
        head = decode(self.before, skip_special_tokens=True)
        return str(decode(self.before + ids, skip_special_tokens=True))[len(head) :]

    def _flush(self, text: str) -> str:
        self.before, self._waiting = _tail(self.before + self._waiting), []
        return text
