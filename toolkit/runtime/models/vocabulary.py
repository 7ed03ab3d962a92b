"""Do two models speak the same tokens?"""

from __future__ import annotations

from toolkit.errors import MismatchError
from toolkit.runtime.models.load import FoundModel, LoadedModel

Speaker = FoundModel | LoadedModel


def require_same_tokens(target: Speaker, drafter: Speaker) -> None:
    """Raise `MismatchError` unless a token id means the same to both.

    Tokenizers decide where both are known: models of one tokenizer may pad their embeddings to
    different sizes (Qwen2.5 does), or add special tokens that the other lacks. Without tokenizers
    the sizes must be equal.
    """
    if target.tokenizer is not None and drafter.tokenizer is not None:
        ours = {index: token for token, index in target.tokenizer.get_vocab().items()}
        theirs = {index: token for token, index in drafter.tokenizer.get_vocab().items()}
        differ = sum(ours[index] != theirs[index] for index in ours.keys() & theirs.keys())
        fact = f"{len(theirs)} and {len(ours)} tokens, {differ} ids mean something else"
    else:
        differ = drafter.vocabulary - target.vocabulary
        fact = f"{drafter.vocabulary} and {target.vocabulary} tokens"
    if differ:
        raise MismatchError(
            f"drafter {drafter.name!r} does not share the vocabulary of target {target.name!r} "
            f"({fact}): use a drafter with the target's tokenizer, or `--drafter ngram`"
        )
