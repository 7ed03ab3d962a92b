"""A conversation: every answer is what a fresh request with all that was said gives."""

import pytest

from toolkit import Chat, Pipeline, Pool
from toolkit.conformance.models import noisy, tiny
from toolkit.errors import MismatchError

SAID = ["w7 w8", "w9", "w7 w20 w21"]


@pytest.fixture
def pipeline(registry, words):
    pool = Pool(modules={"small": noisy("llama"), "it": tiny("llama", 1)})
    pipeline = Pipeline("it", drafter="model:small", pool=pool, registry=registry)
    for name in ("it", "small"):
        object.__setattr__(pool.load(name), "tokenizer", words())
    return pipeline


def test_every_answer_is_that_of_a_fresh_request(pipeline):
    chat, messages, kept = Chat(pipeline, system="w30"), [{"role": "system", "content": "w30"}], []
    for text in SAID:
        messages.append({"role": "user", "content": text})
        stream = chat.ask(text, max_new_tokens=9)
        pieces = "".join(stream)
        fresh = pipeline.generate(messages, max_new_tokens=9)
        assert stream.result.token_ids == fresh.token_ids
        assert stream.result.prompt_ids == fresh.prompt_ids
        assert pieces == fresh.text
        messages.append({"role": "assistant", "content": fresh.text})
        assert chat.messages == messages
        kept.append(stream.kept)
    assert kept[0] == 0
    assert 0 < kept[1] < kept[2]


def test_variables_of_the_template_hold_for_every_turn(pipeline):
    chat = Chat(pipeline, template_args={"enable_thinking": False})
    for text in SAID[:2]:
        stream = chat.ask(text, max_new_tokens=3)
        list(stream)
        assert stream.prompt[-2:] == [5, 3]


def test_an_answer_that_is_broken_off_counts_as_far_as_it_came(pipeline):
    chat = Chat(pipeline)
    stream = chat.ask(SAID[0], max_new_tokens=20)
    next(iter(stream))
    said = stream.result.text
    second = chat.ask(SAID[1], max_new_tokens=3)
    list(second)
    assert chat.messages[1] == {"role": "assistant", "content": said}
    assert second.kept == len(stream.prompt)
    assert second.result.token_ids == pipeline.generate(second.prompt, max_new_tokens=3).token_ids


def test_a_turn_that_does_not_fit_is_not_said(pipeline):
    chat = Chat(pipeline)
    list(chat.ask(SAID[0], max_new_tokens=3))
    before = chat.messages
    with pytest.raises(MismatchError, match="positions"):
        chat.ask("w7 " * 300)
    assert chat.messages == before
    list(chat.ask(SAID[1], max_new_tokens=3))
    assert len(chat.messages) == 4
