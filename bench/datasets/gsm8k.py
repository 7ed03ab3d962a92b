"""GSM8K: school mathematics in words. Cobbe et al. 2021, arXiv:2110.14168."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Conversation

from ..dataset_loading import Row, hub


def questions(rows: Iterable[Row]) -> list[Conversation]:
    """The question, as a prompt that a base model can continue."""
    return [(f"Question: {row['question']}\nAnswer:",) for row in rows]


DATASET = hub(
    "gsm8k",
    "school mathematics in words (GSM8K, main, test)",
    "openai/gsm8k",
    questions,
    chat=True,
    config="main",
    split="test",
)
