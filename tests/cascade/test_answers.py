"""Recorded answers: the round trip, and what is refused."""

from __future__ import annotations

import attrs
import pytest
from toolkit.cascade.answers import (
    Answer,
    by_prompt,
    outcomes_of,
    read_answers,
    write_answers,
)
from toolkit.cascade.scorers.mean_logprob import MeanLogprob

from toolkit import ToolkitError


def answer(prompt="00ff", stage=0, quality=1.0):
    return Answer(
        prompt_id=prompt, stage=stage, name=f"stage {stage}", text="yes", prompt_tokens=3, tokens=2,
        seconds=0.5 + stage, flops=10.0, bytes=20.0, logprobs=[-0.1, -0.3], margins=[1.0, 2.0],
        quality=quality,
    )  # fmt: skip


def test_answers_are_read_as_they_were_written(tmp_path):
    answers = [answer(), answer(stage=1, quality=None)]
    write_answers(answers, tmp_path / "a.parquet")
    assert read_answers(tmp_path / "a.parquet") == answers


def test_another_file_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("no rows")
    with pytest.raises(ToolkitError, match="has no recorded answers"):
        read_answers(tmp_path / "a.parquet")


def test_outcomes_have_a_row_for_each_prompt_and_a_column_for_each_stage():
    answers = [answer(p, s, q) for p, q in (("00ff", 1.0), ("11ff", 0.0)) for s in (1, 0)]
    found = outcomes_of(by_prompt(answers), [MeanLogprob(), MeanLogprob()])
    assert found.costs.tolist() == [[0.5, 1.5], [0.5, 1.5]]
    assert found.qualities.tolist() == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([answer(stage=1)], "expected 0 to 1, each once"),
        ([answer(), answer()], "expected 0 to 0, each once"),
        ([answer(), answer("11ff", 1)], "expected 0 to 1, each once"),
        ([answer(quality=None)], "has no grade"),
    ],
    ids=["no first stage", "a stage twice", "a stage missing", "no grade"],
)
def test_what_cannot_be_fitted_is_refused(answers, message):
    with pytest.raises(ToolkitError, match=message):
        by_prompt(answers)


def test_an_answer_is_immutable():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        answer().stage = 1
