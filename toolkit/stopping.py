"""Where a request ends before its length is reached: at a stop id, or at a stop string."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import define, field

from toolkit.errors import MismatchError
from toolkit.runtime.models.detokenize import Detokenizer


@define(eq=False)
class TextUntil:
    """The text of committed tokens up to the first stop string, which is left out.

    Text that may be the beginning of a stop string is held back until later tokens decide.
    """

    detokenizer: Detokenizer
    strings: tuple[str, ...]
    found: bool = field(default=False, init=False)
    _waiting: str = field(default="", init=False)

    def add(self, ids: list[int]) -> str:
        """Add tokens; return the text that is certain now. After a stop string there is none."""
        if not self.strings:
            return self.detokenizer.add(ids)
        return "".join(self._pass(self.detokenizer.add([token])) for token in ids)

    def rest(self) -> str:
        """The text that is held back at the end."""
        text = self._pass(self.detokenizer.rest())
        return text if self.found else text + self._waiting

    def _pass(self, new: str) -> str:
        if self.found:
            return ""
        text = self._waiting + new
        so_far = (
            text + self.detokenizer.held
        )  # a later token may change what is held, but it is here
        places = [place for string in self.strings if (place := so_far.find(string)) >= 0]
        self.found = bool(places)
        if places:
            text = so_far
        end = min(places) if places else self._certain(text)
        self._waiting = text[end:]
        return text[:end]

    def _certain(self, text: str) -> int:
        """Where the longest suffix of a text begins that may start a stop string."""
        longest = max((len(string) - 1 for string in self.strings), default=0)
        starts = range(max(0, len(text) - longest), len(text))
        return next(
            (i for i in starts if any(s.startswith(text[i:]) for s in self.strings)), len(text)
        )


@define(eq=False)
class Ending:
    """Says whether a request ends after a token. Asked once for each emitted token, in order, so that
    where a request ends depends on its tokens alone, whatever they were drafted and verified with."""

    ids: frozenset[int]
    text: TextUntil

    def __call__(self, token: int) -> bool:
        if token in self.ids:
            return True
        if self.text.strings:
            self.text.add([token])
        return self.text.found


def require_stop_strings(stop: str | Iterable[str], tokenizer: Any, target: str) -> tuple[str, ...]:
    """Stop strings as a tuple. Raises `MismatchError` for anything else, and without a tokenizer."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    odd = [string for string in strings if not isinstance(string, str) or not string]
    if odd:
        raise MismatchError(f"a stop string is a text of at least one character, not {odd[0]!r}")
    if strings and tokenizer is None:
        raise MismatchError(
            f"target {target!r} has no tokenizer, so it has no text to stop at: give stop_ids"
        )
    return strings


def special_ids(strings: Iterable[str], tokenizer: Any) -> set[int]:
    """The ids of those strings that are special tokens: the text leaves these out."""
    special = set(tokenizer.all_special_tokens) if tokenizer is not None else set()
    return {tokenizer.convert_tokens_to_ids(string) for string in strings if string in special}
