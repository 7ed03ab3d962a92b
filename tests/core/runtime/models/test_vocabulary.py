"""Whether two models have the same vocabulary."""

import attrs
import pytest

from toolkit.errors import MismatchError
from toolkit.runtime.models.vocabulary import require_same_tokens


@attrs.define
class Tokenizer:
    words: dict

    def get_vocab(self):
        return self.words


@attrs.define
class Speaker:
    name: str
    vocabulary: int
    tokenizer: Tokenizer | None = None


def speaker(name, vocabulary, words=None):
    return Speaker(name, vocabulary, None if words is None else Tokenizer(words))


AB = {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("target", "drafter"),
    [
        ((2, None), (2, None)),
        ((2, AB), (2, None)),
        ((2, AB), (2, AB)),
        ((2, AB), (64, AB)),  # padded embeddings
        ((64, AB), (2, AB)),
        ((3, {**AB, "<x>": 2}), (2, AB)),  # a special token that the other lacks
        ((2, AB), (3, {**AB, "<x>": 2})),
    ],
)
def test_the_same(target, drafter):
    require_same_tokens(speaker("big", *target), speaker("small", *drafter))


@pytest.mark.parametrize(
    ("target", "drafter", "fact"),
    [
        ((2, None), (3, None), "3 and 2 tokens"),
        ((3, None), (2, AB), "2 and 3 tokens"),
        ((2, AB), (2, {"a": 1, "b": 0}), "2 and 2 tokens, 2 ids mean something else"),
        ((2, AB), (2, {"a": 0, "c": 1}), "2 and 2 tokens, 1 ids mean something else"),
    ],
)
def test_not_the_same(target, drafter, fact):
    with pytest.raises(MismatchError) as caught:
        require_same_tokens(speaker("big", *target), speaker("small", *drafter))
    assert str(caught.value) == (
        f"drafter 'small' does not share the vocabulary of target 'big' ({fact}): use a drafter with "
        f"the target's tokenizer, or `--drafter ngram`"
    )
