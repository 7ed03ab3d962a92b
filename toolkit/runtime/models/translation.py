"""Translates between the tokens of two tokenizers, by text."""

from __future__ import annotations

from attrs import frozen
from transformers import PreTrainedTokenizerBase

from toolkit.choice import Choice
from toolkit.errors import MismatchError
from toolkit.interfaces import Translation, Verifier
from toolkit.runtime.models.pieces import BYTES, FALLBACK
from toolkit.runtime.models.vocabulary import Model, difference_between

ENOUGH = 0.5  # shared tokens, as a part of the larger vocabulary, from which they alone are drafted


@frozen(eq=False)
class TokenizerPair:
    """Implements `interfaces.Translation` for the tokenizers of a target and a drafter."""

    target: PreTrainedTokenizerBase
    drafter: PreTrainedTokenizerBase
    first: int
    shared: tuple[list[int], list[int]] | None

    def target_text(self, before: list[int], ids: list[int]) -> str:
        return _text(self.target, before, ids)

    def target_ids(self, before: str, text: str) -> list[int]:
        return _ids(self.target, before, text)

    def draft_text(self, before: list[int], ids: list[int]) -> str:
        return _text(self.drafter, before, ids)

    def draft_ids(self, before: str, text: str) -> list[int]:
        return _ids(self.drafter, before, text)


def translation_between(target: Model, drafter: Model) -> TokenizerPair | None:
    """How to translate between the tokens of two models; None where they are the same, or where a
    model has no tokenizer and its ids are taken to be the other's."""
    if target.tokenizer is None or drafter.tokenizer is None:
        return None
    if difference_between(target, drafter) is None:
        return None
    shared = _shared(target, drafter)
    return TokenizerPair(target.tokenizer, drafter.tokenizer, _first(drafter.tokenizer), shared)


def require_covered(translation: Translation, drafter: str, verifier: Choice[Verifier]) -> None:
    """Raise `MismatchError` for a drafter that chooses candidates by text, without draws, where the
    verifier's proof needs draws."""
    by_text = translation.shared is None
    if by_text and "fixed" not in verifier.cls.assumes:
        raise MismatchError(
            f"cannot use verifier {verifier.cls.name!r} with drafter {drafter!r}: it has another "
            f"tokenizer and chooses candidates by text, but the verifier's proof is about drawn ones; "
            f"`--verifier sampler-match` fits"
        )


def _text(tokenizer: PreTrainedTokenizerBase, before: list[int], ids: list[int]) -> str:
    """The text that ids add to that of the ids before."""
    both, first = (
        str(tokenizer.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for each in (before + ids, before)
    )
    return both[len(first) :]


def _ids(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> list[int]:
    """The ids of a text that follows another, or of the text alone where the two share a token."""
    both, first, alone = (
        tokenizer(each, add_special_tokens=False).input_ids
        for each in (before + text, before, text)
    )
    ids: list[int] = both[len(first) :] if both[: len(first)] == first else alone
    return ids


def _first(tokenizer: PreTrainedTokenizerBase) -> int:
    """What a tokenizer puts before a text, or would."""
    ids = tokenizer.bos_token_id, tokenizer.eos_token_id, 0
    return next(int(index) for index in ids if index is not None)


def _shared(target: Model, drafter: Model) -> tuple[list[int], list[int]] | None:
    """The ids of tokens that are the same text, of target and drafter; None where they are few."""
    ours, theirs = _texts(target), _texts(drafter)
    both = [text for text in ours if text in theirs]
    if len(both) < ENOUGH * max(len(ours), len(theirs)):
        return None
    return [ours[text] for text in both], [theirs[text] for text in both]


def _texts(model: Model) -> dict[bytes, int]:
    """The ids of a model's tokens by their text in UTF-8, special ones left out."""
    assert model.tokenizer is not None  # noqa: S101
    vocabulary, special = model.tokenizer.get_vocab(), {*model.tokenizer.all_special_ids}
    by_bytes = any("\u0120" in token for token in vocabulary)  # Ġ stands for a space
    found: dict[bytes, int] = {}
    for token, index in vocabulary.items():
        if index in special or index >= model.vocabulary:
            continue
        if by_bytes and all(character in BYTES for character in token):
            found[bytes(BYTES[character] for character in token)] = index
        elif one := FALLBACK.fullmatch(token):
            found.setdefault(bytes([int(one[1], 16)]), index)
        else:
            found[token.replace("\u2581", " ").encode()] = index  # ▁ stands for a space
    return found
