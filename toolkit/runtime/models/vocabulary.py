"""Whether two models have the same tokens."""

from __future__ import annotations

from toolkit.errors import MismatchError
from toolkit.runtime.models.load import FoundModel, LoadedModel

Model = FoundModel | LoadedModel


def require_same_tokens(target: Model, drafter: Model) -> None:
    """Raise `MismatchError` unless every token id that both models have is the same token."""
    fact = difference_between(target, drafter)
    if fact:
        raise MismatchError(
            f"drafter {drafter.name!r} does not share the vocabulary of target {target.name!r} "
            f"({fact}): use a drafter with the target's tokenizer, or `--drafter ngram`"
        )


def difference_between(target: Model, drafter: Model) -> str | None:
    """How the tokens of two models differ; None where they do not.

    Tokenizers are compared where both models have one: embeddings may be padded to different sizes
    (Qwen2.5's are), and one model may have special tokens that the other lacks. Without tokenizers,
    vocabulary sizes must be equal.
    """
    if target.tokenizer is not None and drafter.tokenizer is not None:
        ours = {index: token for token, index in target.tokenizer.get_vocab().items()}
        theirs = {index: token for token, index in drafter.tokenizer.get_vocab().items()}
        differ = sum(ours[index] != theirs[index] for index in ours.keys() & theirs.keys())
        fact = f"{len(theirs)} and {len(ours)} tokens, {differ} ids mean something else"
    else:
        differ = drafter.vocabulary - target.vocabulary
        fact = f"{drafter.vocabulary} and {target.vocabulary} tokens"
    return fact if differ else None
