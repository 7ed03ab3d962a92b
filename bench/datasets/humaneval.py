"""HumanEval: Python functions to be completed. Chen et al. 2021, arXiv:2107.03374."""

from __future__ import annotations

from ..dataset_loading import column, hub

DATASET = hub(
    "humaneval",
    "Python functions to be completed (HumanEval)",
    "openai/openai_humaneval",
    column("prompt"),
    split="test",
)
