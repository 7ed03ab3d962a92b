"""Text comes as soon as it is certain, and nothing is lost or said twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from toolkit import embedded
from toolkit.runtime.models.detokenize import Detokenizer


@pytest.fixture(scope="module")
def shipped():
    return AutoTokenizer.from_pretrained(embedded.folder("target"))


@pytest.fixture(scope="module")
def llamaish():
    """A tokenizer that writes spaces as ▁ and unknown bytes as <0x…>, as Llama's does."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "▁the", "b", "▁", "é"]
    inner = Tokenizer(models.BPE(
        vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>",
        byte_fallback=True,
    ))
    inner.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def cut(ids, sizes):
    """`ids` in runs of these sizes, the rest as one."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(ids[at : at + size])
        at += size
    return [*pieces, ids[at:]]


TEXT = st.text("ab é字🎈\n“’ THE the", max_size=30)
SIZES = st.lists(st.integers(0, 4), max_size=40)


@given(text=TEXT, sizes=SIZES, prompt=st.sampled_from(["", "Once upon", "née ", "🎈"]))
def test_pieces_of_a_text_are_the_text(shipped, text, sizes, prompt):
    before, ids = shipped(prompt).input_ids, shipped(text, add_special_tokens=False).input_ids
    stream = Detokenizer(shipped, before)
    pieces = [stream.add(piece) for piece in cut(ids, sizes)]
    assert "\ufffd" not in "".join(pieces)
    whole = "".join([*pieces, stream.rest()])
    assert whole == shipped.decode(ids)


@given(text=st.text("ab é字🎈", max_size=20), sizes=SIZES)
def test_pieces_of_bytes_are_the_text(llamaish, text, sizes):
    known = {"a": "▁a", "b": "b", "é": "é", " ": "▁"}
    words = [[known[c]] if c in known else [f"<0x{b:02X}>" for b in c.encode()] for c in text]
    stream = Detokenizer(llamaish, llamaish.convert_tokens_to_ids(["▁the"]))
    ids = llamaish.convert_tokens_to_ids([word for character in words for word in character])
    pieces = [stream.add(piece) for piece in cut(ids, sizes)]
    assert "\ufffd" not in "".join(pieces)
    assert "".join([*pieces, stream.rest()]) == text.replace("a", " a")


def test_a_character_waits_for_its_last_byte(shipped):
    ids = shipped("🎈!", add_special_tokens=False).input_ids
    assert len(ids) > 2  # the balloon is several tokens
    stream = Detokenizer(shipped, [])
    assert [stream.add([token]) for token in ids] == [*[""] * (len(ids) - 2), "🎈", "!"]
    assert stream.rest() == ""


def test_an_unfinished_character_comes_at_the_end(shipped):
    ids = shipped("a🎈", add_special_tokens=False).input_ids[:-1]
    stream = Detokenizer(shipped, [])
    assert "".join(map(stream.add, [[token] for token in ids])) == "a"
    assert set(stream.rest()) == {"\ufffd"}
    assert stream.rest() == ""


def test_a_space_before_the_first_new_word_is_kept(llamaish):
    the, a = llamaish.convert_tokens_to_ids(["▁the", "▁a"])
    assert llamaish.decode([the, a]) == "the a"
    stream = Detokenizer(llamaish, [the])
    assert [stream.add([a]), stream.add([the])] == [" a", " the"]


def test_special_tokens_are_not_text(shipped):
    ids = [*shipped("a", add_special_tokens=False).input_ids, shipped.eos_token_id]
    assert Detokenizer(shipped, []).add(ids) == "a"


def test_without_a_tokenizer_there_is_no_text():
    stream = Detokenizer(None, [1, 2])
    assert (stream.add([3]), stream.rest()) == ("", "")
