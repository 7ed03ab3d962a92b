"""Prompts become token ids: texts, conversations in the chat template, and ids; the rest is refused."""

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Pipeline, Pool
from toolkit.conformance.models import VOCABULARY, tiny
from toolkit.errors import MismatchError
from toolkit.prompts import encode_messages, encode_prompt, encode_text, is_chat_model

BOS, USER, ANSWER, SYSTEM = 1, 2, 3, 4
TALK = [{"role": "user", "content": "w7 w8"}]


@attrs.define
class Model:
    """A model as far as encoding asks for it."""

    tokenizer: object = None
    name: str = "mine"
    vocabulary: int = VOCABULARY


@attrs.define
class OneModel:
    """A pool of one model, as far as the choice of messages asks for it."""

    model: Model
    place: str

    def find(self, name):
        return self.model

    def origin(self, name):
        return self.place


def test_a_conversation_goes_through_the_template(words):
    talk = [{"role": "system", "content": "w9"}, *TALK]
    assert encode_prompt(talk, Model(words())) == [BOS, SYSTEM, 9, USER, 7, 8, ANSWER]
    assert encode_prompt(tuple(talk), Model(words())) == encode_prompt(talk, Model(words()))


@given(st.lists(st.integers(7, VOCABULARY - 1), min_size=1).map(lambda ids: [f"w{i}" for i in ids]))
def test_there_is_one_begin_of_sequence_token(words, said):
    content = " ".join(said)
    tokenizer = words()
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    for ids in (
        encode_prompt(content, Model(tokenizer)),
        encode_prompt([{"role": "user", "content": content}], Model(tokenizer)),
        encode_prompt(rendered, Model(tokenizer)),
    ):
        assert ids.count(BOS) == 1
        assert ids[0] == BOS
    assert tokenizer(rendered).input_ids.count(BOS) == 2  # what the tokenizer alone would do


def test_a_text_is_what_the_tokenizer_says(words):
    tokenizer = words()
    for text in ("w5 w6", "<s>", "w5 <s> <s>"):
        assert encode_text(text, tokenizer)[-1:] == tokenizer(text).input_ids[-1:]
    assert encode_text("w5 w6", tokenizer) == tokenizer("w5 w6").input_ids


def test_variables_reach_the_template(words):
    quick = {"enable_thinking": False}
    assert encode_prompt(TALK, Model(words()), quick) == [BOS, USER, 7, 8, 5, ANSWER]
    with pytest.raises(MismatchError, match="'tokenize' is no variable of a chat template"):
        encode_prompt(TALK, Model(words()), {"tokenize": False})


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (["w5", "w6"], "a prompt is one text, and this is a list with 2 entries"),
        ([5, "w6"], "a prompt is one text, and this is a list with 2 entries"),
        (TALK[0], "a conversation is a list of messages: put this one into a list"),
        ([*TALK, 5], "message 1 of the conversation is no message"),
        ([{"role": "user"}], "message 0 of the conversation is no message"),
        ([{"role": "tool", "content": "x"}], "rejects the messages: no tools here"),
        (None, "not NoneType"),
        (b"w5", "not bytes"),
        ([[5], [6, 7]], "not list"),
        ([[5, 6]], r"shape \[1, 2\]"),
        ([1.5], "dtype float"),
        (7, r"shape \[\]"),
        ([], "the prompt is empty"),
        ("", "the prompt is empty"),
        ([VOCABULARY], f"from 0 to {VOCABULARY - 1}"),
        ([-1], "-1"),
    ],
)
def test_what_is_no_prompt_is_refused(prompt, said, words):
    with pytest.raises(MismatchError, match=said):
        encode_prompt(prompt, Model(words()))


def test_ids_are_taken_as_they_are():
    for ids in ([5, 6], (5, 6), torch.tensor([5, 6])):
        assert encode_prompt(ids, Model(None)) == [5, 6]


def test_without_a_tokenizer_or_a_template_there_is_a_hint(words):
    with pytest.raises(MismatchError, match="has no tokenizer: give token ids"):
        encode_prompt("w5", Model(None))
    for tokenizer in (None, words(None)):
        with pytest.raises(MismatchError, match="no chat template"):
            encode_prompt(TALK, Model(tokenizer))


@pytest.mark.parametrize(
    ("name", "place", "template", "chats"),
    [
        ("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", "x", True),
        ("gemma", "google/gemma-3-1b-it", "x", True),
        ("./my-chat-model", "./my-chat-model", "x", True),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B", "{% if enable_thinking %}", True),
        ("r1", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "<think>", True),
        ("qwen3-base", "Qwen/Qwen3-0.6B-Base", "{% if enable_thinking %}", False),
        ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", "<|im_start|>", False),
        ("gemma-pt", "google/gemma-3-1b-pt", "x", False),
        ("kitten", "someone/kitten-limit", "x", False),
        ("llama-instruct", "someone/llama-instruct", None, False),
        ("/chat/models/plain", "/chat/models/plain", "x", False),
    ],
)
def test_instruct_models_chat_by_default(name, place, template, chats, words):
    assert is_chat_model(name, OneModel(Model(words(template), name), place)) is chats
    assert not is_chat_model(name, OneModel(Model(None, name), place))


def test_a_pipeline_decodes_a_conversation(registry, words):
    pool = Pool(modules={"it": tiny("llama")})
    pipeline = Pipeline("it", registry=registry, pool=pool)
    object.__setattr__(pool.load("it"), "tokenizer", words())
    ids = encode_messages(TALK, words())
    assert pipeline.encode(TALK) == ids
    result = pipeline.generate(TALK, max_new_tokens=6)
    assert result.prompt_ids == ids
    assert result.token_ids == pipeline.generate(ids, max_new_tokens=6).token_ids
    with pytest.raises(MismatchError, match="decode them one by one"):
        pipeline.generate(["w5", "w6"])
