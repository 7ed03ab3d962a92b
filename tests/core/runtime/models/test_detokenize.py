"""Text is emitted as soon as it is final; no text is lost or emitted twice."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AddedToken, AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from toolkit import embedded
from toolkit.runtime.models.detokenize import CONTEXT, Detokenizer
from toolkit.stopping import TextUntil

module = sys.modules[Detokenizer.__module__]


@pytest.fixture(scope="module")
def shipped():
    return AutoTokenizer.from_pretrained(embedded.folder("target"))


@pytest.fixture(scope="module")
def llamaish():
    """A tokenizer that writes spaces as ▁ and unknown bytes as <0x…>, as Llama's does."""
    words = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁a",
        "▁the",
        "b",
        "▁",
        "é",
    ]
    inner = Tokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
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


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)
KINDS = {  # a model, a decoder, and what tokens are made of
    "byte-level": (models.BPE, decoders.ByteLevel(), [*bytes_to_unicode().values()]),
    "byte-fallback": (models.BPE, LLAMA, ["▁", "a", "é", *BYTES]),
    "metaspace": (models.BPE, decoders.Metaspace(), ["▁", "a", "b", "é"]),
    "unigram": (models.Unigram, decoders.Metaspace(), ["▁", "a", "b", "é", "."]),
    "wordpiece": (models.WordPiece, decoders.WordPiece(cleanup=False), [*"an't.,sv ", "##"]),
    "wordpiece-clean": (models.WordPiece, decoders.WordPiece(), [*"an't.,svre?", "##"]),
    "bpe-suffix": (models.BPE, decoders.BPEDecoder(), ["a", "b", "</w>"]),
    "ctc": (models.WordLevel, decoders.CTC(), ["a", "b", "|", "<pad>"]),
    "none": (models.WordLevel, None, ["a", "b", "."]),
}


def make(kind, words, *, cleans=False):
    """A tokenizer of a kind whose vocabulary is these words, special and other added tokens."""
    model, decoder, _ = KINDS[kind]
    words = ["<unk>", *dict.fromkeys(words)]
    if model is models.Unigram:
        inner = Tokenizer(model([(word, -1.0) for word in words], unk_id=0))
    else:
        more = {"merges": []} if model is models.BPE else {}
        vocabulary = {word: place for place, word in enumerate(words)}
        inner = Tokenizer(model(vocabulary, unk_token="<unk>", **more))
    if decoder is not None:
        inner.decoder = decoder
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", clean_up_tokenization_spaces=cleans,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=cleans,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken("<|x|>", special=True), AddedToken(" <y>", special=False)])
    return tokenizer


@st.composite
def tokenizers(draw):
    kind = draw(st.sampled_from([*KINDS, "python"]))
    if kind == "python":
        return ByT5Tokenizer()
    parts = st.lists(st.sampled_from(KINDS[kind][2]), min_size=1, max_size=2)
    atoms = st.sampled_from(KINDS[kind][2])
    words = draw(st.lists(st.one_of(atoms, parts.map("".join)), min_size=3, max_size=20))
    words = [word for word in words if "</w>" not in word.removesuffix("</w>")]  # it is a suffix
    return make(kind, words, cleans=draw(st.booleans()))


def streamed(tokenizer, prompt, ids, sizes=()):
    stream = Detokenizer(tokenizer, list(prompt))
    return "".join([*map(stream.add, cut(ids, sizes)), stream.rest()])


def decoded(tokenizer, prompt, ids):
    """The text of ids after a prompt; None where they change the prompt's text."""
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    whole = tokenizer.decode(prompt + ids, skip_special_tokens=True)
    return whole[len(before) :] if whole.startswith(before) else None


@given(data=st.data(), tokenizer=tokenizers())
def test_pieces_are_the_text_for_every_kind_of_tokenizer(data, tokenizer):
    some = data.draw(
        st.lists(st.integers(0, len(tokenizer)), min_size=1, max_size=6)
    )  # one unknown
    token = st.one_of(st.sampled_from(some), st.integers(0, len(tokenizer)))
    prompt = data.draw(st.lists(token, max_size=40))
    ids = data.draw(st.lists(token, min_size=1, max_size=70))
    known = [i for i in prompt if i < len(tokenizer)], [i for i in ids if i < len(tokenizer)]
    prompt, ids = known if isinstance(tokenizer, ByT5Tokenizer) else (prompt, ids)
    expected = decoded(tokenizer, prompt, ids)
    got = streamed(tokenizer, prompt, ids, data.draw(SIZES))
    assert got == streamed(tokenizer, prompt, ids)
    assert expected in (None, got)


def ids_of(tokenizer, *words):
    return tokenizer.convert_tokens_to_ids(list(words))


BALLOON = ["<0xF0>", "<0x9F>", "<|x|>", "<0x8E>", "<0x88>"]
EXAMPLES = {  # words, prompt, ids, and what breaks without a rule
    "a clean-up": ("wordpiece", ["a", "'", "s", "n"], ["a"], ["a", "n", "'", "s", "a"], "UNCLEAN"),
    "bytes": ("byte-fallback", ["a", *BYTES], ["a"], ["<0xE4>", "<0xB8>", "<0xAD>", "a"], "BYTE"),
    "specials": ("byte-fallback", ["a", *BYTES], ["a"], BALLOON, "_special_ids"),
}  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_rule_is_needed(monkeypatch, example):
    """The controls: without it, the pieces are not the text."""
    kind, words, prompt, ids, rule = EXAMPLES[example]
    tokenizer = make(kind, words, cleans=kind == "wordpiece")
    prompt, ids = ids_of(tokenizer, *prompt), ids_of(tokenizer, *ids)
    expected = decoded(tokenizer, prompt, ids)
    assert streamed(tokenizer, prompt, ids) == expected
    nothing = (lambda _: frozenset()) if rule == "_special_ids" else re.compile("(?!)")
    monkeypatch.setattr(module, rule, nothing)
    assert streamed(tokenizer, prompt, ids) != expected


def test_what_is_decoded_again_stays_short(shipped):
    ids = shipped("Once upon a time there was a sailor. " * 40, add_special_tokens=False).input_ids
    stream = Detokenizer(shipped, ids)
    stream.add(ids)
    assert len(ids) > 300
    assert len(stream._window) < 40
    assert len(stream._prompt_text) < 40 * CONTEXT


def test_a_prompt_that_ends_inside_a_character(shipped):
    """The first new token completes it: the character is new text."""
    ids = shipped("a🎈!", add_special_tokens=False).input_ids
    assert streamed(shipped, ids[:-2], ids[-2:]) == "🎈!"


def test_a_stop_string_of_a_byte_token_ends_at_it(llamaish):
    """A newline of SentencePiece may yet turn into U+FFFD, but it is there."""
    text = TextUntil(Detokenizer(llamaish, []), ("\n",))
    a, newline = llamaish.convert_tokens_to_ids(["▁a", "<0x0A>"])
    assert (text.add([a]), text.found) == ("a", False)
    assert (text.add([newline]), text.found, text.rest()) == ("", True, "")


def test_a_stop_string_that_a_later_token_would_clean_up():
    tokenizer = make("wordpiece", ["a", "'", "s"], cleans=True)
    text = TextUntil(Detokenizer(tokenizer, []), (" '",))
    assert text.add(ids_of(tokenizer, "a", "'")) == "a"
    assert text.found
