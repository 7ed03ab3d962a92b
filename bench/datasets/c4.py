"""C4: web pages. Raffel et al. 2020, arXiv:1910.10683."""

from __future__ import annotations

from ..dataset_loading import column, hub

DATASET = hub(
    "c4",
    "web pages (C4, English, the first 2,000 of validation)",
    "allenai/c4",
    column("text"),
    most=2000,
    config="en",
    split="validation",
)
