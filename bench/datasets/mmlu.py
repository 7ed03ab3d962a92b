"""MMLU: questions with four answers. Hendrycks et al. 2021, arXiv:2009.03300."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Conversation

from ..dataset_loading import Row, hub


def questions(rows: Iterable[Row]) -> list[Conversation]:
    """The question and its lettered answers, without the right one."""
    found: list[Conversation] = []
    for row in rows:
        answers = [f"{letter}. {text}" for letter, text in zip("ABCD", row["choices"], strict=True)]
        found.append(("\n".join([row["question"], *answers, "Answer:"]),))
    return found


def refer(row: Row) -> str:
    """The letter of the right answer."""
    return "ABCD"[row["answer"]]


DATASET = hub(
    "mmlu",
    "questions with four answers (MMLU, all subjects, test)",
    "cais/mmlu",
    questions,
    chat=True,
    config="all",
    split="test",
    grader="letter",
    refer=refer,
)
