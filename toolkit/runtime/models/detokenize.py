"""Token ids → text, piece by piece."""

from __future__ import annotations

import re
from typing import Any

from attrs import define, field
from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # stands for a character of which bytes are missing
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # a token of one byte; SentencePiece's byte fallback
UNCLEAN = re.compile(r"[ 'n]*[vr]?$")  # where a later token may complete " n't", " 've" or " ' "
IDS = 32  # in the window that is decoded, at most, if half of them have enough text
CONTEXT = 16  # characters of emitted text in the window: more than a space or a clean-up depends on


@define
class Detokenizer:
    """Turns committed ids into text as soon as the text is final; empty text without a tokenizer.

    The pieces, joined, are what the tokenizer decodes of prompt and ids together, less the prompt.
    Three kinds of text wait for the next token, because it may change them: an unfinished character; a
    run of byte tokens, which are all replaced if one of them fits no character; and what spaces are
    removed from (`clean_up_tokenization_spaces`).

    `tokenizers`' `DecodeStream` cannot replace it: it has no end, so it loses an unfinished character;
    it knows neither the clean-up nor tokenizers in Python; and it raises an error where bytes fit no
    character.
    """

    tokenizer: PreTrainedTokenizerBase | None
    prompt: list[int]
    held: str = field(default="", init=False)
    """The text of the last ids that a later token may still change."""
    _window: list[int] = field(init=False)  # the last ids, those of the prompt first
    _emitted: int | None = field(default=None, init=False)  # characters of the window's text
    _prompt_text: str = field(init=False)  # of the window, at first
    _cleans: bool = field(init=False)
    _skipped: frozenset[int] = field(init=False)  # special tokens

    def __attrs_post_init__(self) -> None:
        self._cleans, self._skipped = _cleans_up(self.tokenizer), _special_ids(self.tokenizer)
        ids = [token for token in self.prompt if self._is_text(token)]
        count = IDS // 2
        while count < len(ids) and (self._splits(ids, -count) or self._short(ids[-count:])):
            count *= 2
        self._window = ids[-count:]
        self._prompt_text = self._decode(self._window)

    def add(self, ids: list[int]) -> str:
        """The text that `ids` make final."""
        return "".join([self._add(token) for token in ids if self._is_text(token)])

    def rest(self) -> str:
        """The rest of the text, with an unfinished character as U+FFFD."""
        text = self._decode(self._window)
        return self._emit(text, len(text))

    def _add(self, token: int) -> str:
        self._window.append(token)
        text = self._decode(self._window)
        return self._emit(text, self._final(text))

    def _emit(self, text: str, final: int) -> str:
        """The characters of the window's text that were not emitted yet, up to `final`."""
        start = self._emitted
        if start is None:  # the first new id may have changed the end of the prompt
            start = _shared(self._prompt_text, text)
        self.held = text[max(start, final) :].removesuffix(UNFINISHED)
        if final <= start:
            return ""
        self._emitted = final
        if len(self._window) % IDS == 0:
            self._shorten(text)
        return text[start:final]

    def _final(self, text: str) -> int:
        """How many characters of the window's text no later token can change."""
        run = 0
        while run < len(self._window) and self._is_byte(self._window[~run]):
            run += 1
        if run:
            text = self._decode(self._window[:-run])
        if text.endswith(UNFINISHED):
            return len(text) - 1
        clean = UNCLEAN.search(text) if self._cleans else None
        return clean.start() if clean else len(text)

    def _shorten(self, text: str) -> None:
        """Drop ids from the window's start where that does not change the text still to be emitted."""
        ids, rest = self._window[-IDS // 2 :], text[self._emitted :]
        short = self._decode(ids)
        said = len(short) - len(rest)
        if said >= CONTEXT and short.endswith(rest) and not self._splits(self._window, -IDS // 2):
            self._window, self._emitted = ids, said

    def _short(self, ids: list[int]) -> bool:
        return len(self._decode(ids)) < CONTEXT

    def _splits(self, ids: list[int], place: int) -> bool:
        """Whether ids lie in one run of bytes on both sides of a place."""
        return self._is_byte(ids[place - 1]) and self._is_byte(ids[place])

    def _is_text(self, token: int) -> bool:
        """Whether the tokenizer decodes a token to text: special and unknown ones it leaves out."""
        return token not in self._skipped and self._token(token) is not None

    def _is_byte(self, token: int) -> bool:
        return BYTE.fullmatch(str(self._token(token))) is not None

    def _token(self, token: int) -> Any:
        return self.tokenizer and self.tokenizer.convert_ids_to_tokens(token)

    def _decode(self, ids: list[int]) -> str:
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at the start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _special_ids(tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The ids that decoding skips."""
    if tokenizer is None:
        return frozenset()
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = [token for token, content in added.items() if content.special]
    return frozenset([*marked, *tokenizer.all_special_ids])


def _cleans_up(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether decoding removes spaces; transformers does not for BPE, unless it is told twice."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    twice = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    bpe = type(model).__name__ == "BPE" and not getattr(tokenizer, twice, False)
    return bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)) and not bpe
