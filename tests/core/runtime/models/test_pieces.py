"""The text of one token, for the kinds of tokenizer that there are."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolkit import Pool
from toolkit.runtime.models.pieces import Pieces


def test_byte_level_pieces_keep_their_space_and_show_unfinished_bytes():
    tokenizer = Pool().find("package:target").tokenizer
    piece = Pieces(tokenizer)
    assert [piece(token) for token in tokenizer("Once upon").input_ids][-2:] == ["Once", " upon"]
    assert [piece(token) for token in tokenizer("a“").input_ids][-3:] == ["⟨e2⟩", "⟨80⟩", "⟨9c⟩"]
    assert piece(0) == "<|endoftext|>"


def test_sentencepiece_pieces_keep_their_space_and_show_single_bytes():
    vocabulary = {"<unk>": 0, "▁the": 1, "re": 2, "<0xE2>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    piece = Pieces(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert [piece(token) for token in (1, 2, 3)] == [" the", "re", "⟨e2⟩"]


def test_without_a_tokenizer_a_piece_is_its_id():
    assert Pieces(None)(37) == "#37"
