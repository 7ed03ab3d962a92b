"""CNN/DailyMail: news articles to be summed up. See et al. 2017, arXiv:1704.04368."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Conversation

from ..dataset_loading import Row, hub


def questions(rows: Iterable[Row]) -> list[Conversation]:
    """The article with instructions around it; a prompt that is cut keeps its beginning."""
    return [(f"Summarize this article.\n\n{row['article']}\n\nSummary:",) for row in rows]


DATASET = hub(
    "cnn_dailymail",
    "news articles to be summed up (CNN/DailyMail 3.0.0, test)",
    "abisee/cnn_dailymail",
    questions,
    chat=True,
    config="3.0.0",
    split="test",
)
