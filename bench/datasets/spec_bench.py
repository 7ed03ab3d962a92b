"""Spec-Bench: six kinds of questions to an assistant, 480 in all. Xia et al. 2024, arXiv:2401.07851."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Conversation

from ..dataset_loading import Row, web


def turns(rows: Iterable[Row]) -> list[Conversation]:
    """Most have one turn, those of MT-Bench two."""
    return [tuple(row["turns"]) for row in rows]


DATASET = web(
    "spec-bench",
    "six kinds of questions to an assistant (Spec-Bench)",
    "https://raw.githubusercontent.com/hemingkx/Spec-Bench/main/data/spec_bench/question.jsonl",
    turns,
    chat=True,
)
