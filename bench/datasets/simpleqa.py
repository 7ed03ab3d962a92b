"""SimpleQA: short questions of fact, each with one answer. Wei et al. 2024, arXiv:2411.04368."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Conversation

from ..dataset_loading import Row, hub


def questions(rows: Iterable[Row]) -> list[Conversation]:
    """The question, with the request for the fact alone: answers are compared, not read."""
    return [(f"{row['problem']}\nAnswer with the fact alone.\nAnswer:",) for row in rows]


def refer(row: Row) -> str:
    """The fact."""
    return str(row["answer"])


DATASET = hub(
    "simpleqa",
    "short questions of fact (SimpleQA, test)",
    "basicv8vc/SimpleQA",
    questions,
    chat=True,
    split="test",
    grader="normalised",
    refer=refer,
)
