"""Token id → its text alone, for tables and pictures of tokens."""

from __future__ import annotations

import re

from attrs import define, field
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
UNFINISHED = "\ufffd"
FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's token of one byte


@define(eq=False)
class Pieces:
    """The text of single tokens, leading space included, each decoded once.

    Bytes that are no whole character are written as ⟨e2 96⟩. Without a tokenizer, a piece is #id.
    """

    tokenizer: PreTrainedTokenizerBase | None
    _known: dict[int, str] = field(factory=dict, init=False)

    def __call__(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._piece(token)
        return self._known[token]

    def _piece(self, token: int) -> str:
        if self.tokenizer is None:
            return f"#{token}"
        raw = str(self.tokenizer.convert_ids_to_tokens(token) or "")
        if one := FALLBACK.fullmatch(raw):
            return f"⟨{one[1].lower()}⟩"
        alone = self._decode([token])
        if UNFINISHED in alone and all(character in BYTES for character in raw):
            return _show_bytes(bytes(BYTES[character] for character in raw))
        twice = self._decode([token, token])  # a space at the very start may be left out
        return twice[len(alone) :] if twice.startswith(alone) else alone

    def _decode(self, ids: list[int]) -> str:
        assert self.tokenizer is not None  # noqa: S101
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _show_bytes(data: bytes) -> str:
    """UTF-8 text; what cannot be decoded as ⟨e2 96⟩."""
    shown, waiting = "", b""
    for character in data.decode("utf-8", "surrogateescape"):
        if "\udc80" <= character <= "\udcff":
            waiting += bytes([ord(character) - 0xDC00])
            continue
        shown, waiting = shown + _bracketed(waiting) + character, b""
    return shown + _bracketed(waiting)


def _bracketed(data: bytes) -> str:
    return f"⟨{data.hex(' ')}⟩" if data else ""
