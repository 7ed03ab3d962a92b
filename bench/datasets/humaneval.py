"""HumanEval: Python functions to be completed. Chen et al. 2021, arXiv:2107.03374."""

from __future__ import annotations

from ..dataset_loading import Row, column, hub


def refer(row: Row) -> str:
    """The program that tests a completion: it runs after prompt and completion."""
    return f"{row['test']}\ncheck({row['entry_point']})"


DATASET = hub(
    "humaneval",
    "Python functions to be completed (HumanEval)",
    "openai/openai_humaneval",
    column("prompt"),
    split="test",
    grader="execution",
    refer=refer,
)
