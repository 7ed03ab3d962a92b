"""Prompts: seeded, cut in tokens, and conversations that all arms share."""

import copy

import pytest
from toolkit.bench.prompts import Encoder, Talk, sample_conversations

from toolkit import Pipeline, Pool, ToolkitError


@pytest.fixture(scope="module")
def encoder():
    return Encoder.of(Pipeline("stories-1m", drafter="none"))


ROWS = [(f"prompt {i}",) for i in range(20)]


def rows(count, seed, keep=lambda turns: True, conversations=ROWS):
    return [row for row, _ in sample_conversations("x", conversations, count, seed, keep)]


def test_a_seed_chooses_the_prompts():
    assert rows(5, 0) == rows(5, 0)
    assert rows(5, 0) != rows(5, 1)
    assert len(set(rows(20, 3))) == 20


def test_more_prompts_keep_the_first():
    assert rows(8, 0)[:5] == rows(5, 0)


def test_what_is_empty_or_unfit_is_left_out():
    assert set(rows(1, 0, conversations=[("",), ("a",), ("",)])) == {1}
    talks = [("a", ""), ("a", "b"), ()]
    assert set(rows(1, 0, conversations=talks)) == {1}
    assert set(rows(2, 0, lambda turns: turns[0] in ("prompt 3", "prompt 4"))) == {3, 4}


def test_too_few_prompts_are_an_error():
    with pytest.raises(ToolkitError, match="only 20 usable prompts, and 21 are asked for"):
        rows(21, 0)
    with pytest.raises(ToolkitError, match="is empty"):
        rows(1, 0, conversations=[])


def test_a_prompt_is_cut_in_tokens(encoder):
    text = "Once upon a time there was a little girl. " * 50
    whole = encoder.tokenizer(text).input_ids
    assert len(whole) > 100
    for limit in (1, 7, 40):
        assert encoder.cut(text, limit) == whole[:limit]
    assert encoder.ids(Talk("x", 0, (text,), chat=False), 0, 9, []) == whole[:9]


def test_earlier_answers_stand_between_the_turns(encoder):
    talk = Talk("x", 0, ("One day.", "And then?", "Why?"), chat=True)
    ids = encoder.ids(talk, 2, 50, ["A cat came.", "It slept."])
    text = encoder.decode(ids)
    places = [text.index(part) for part in ("One day", "A cat came", "And then", "It slept", "Why")]
    assert places == sorted(places)


INSTRUCT = "{% for m in messages %}[INST]{{ m['role'] }} {{ m['content'] }}[/INST]{% endfor %}"
BASE = INSTRUCT.replace("INST", "TURN")  # names no instruct model


@pytest.mark.parametrize("template", [INSTRUCT, BASE, None])
def test_questions_are_messages_to_instruct_models_alone(template, encoder):
    """As by `toolkit run`: base models often have a template too."""
    pipeline = Pipeline("stories-1m", drafter="none", pool=Pool())
    tokenizer = copy.copy(encoder.tokenizer)
    tokenizer.chat_template = template
    object.__setattr__(pipeline.pool.find("stories-1m"), "tokenizer", tokenizer)
    found = Encoder.of(pipeline)
    talk = Talk("x", 0, ("One day.", "Why?"), chat=True)
    said = found.decode(found.ids(talk, 1, 50, ["A cat."]))
    marks = "[INST]user One day.[/INST][INST]assistant A cat.[/INST][INST]user Why?[/INST]"
    assert (marks in said) == (template == INSTRUCT), said
    first = encoder.ids(talk, 0, 50, [])
    assert (found.ids(talk, 0, 50, []) != first) == (template == INSTRUCT)
    text = Talk("x", 0, ("One day.",), chat=False)
    assert found.ids(text, 0, 50, []) == encoder.ids(text, 0, 50, [])
