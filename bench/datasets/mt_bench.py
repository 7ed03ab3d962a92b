"""MT-Bench: questions to an assistant in two turns. Zheng et al. 2023, arXiv:2306.05685."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Conversation

from ..dataset_loading import Row, hub


def turns(rows: Iterable[Row]) -> list[Conversation]:
    """The hub's copy calls the turns `prompt`, the authors' file calls them `turns`."""
    return [tuple(row["prompt"] if "prompt" in row else row["turns"]) for row in rows]


DATASET = hub(
    "mt-bench",
    "questions to an assistant in two turns (MT-Bench)",
    "HuggingFaceH4/mt_bench_prompts",
    turns,
    chat=True,
    split="train",
)
