"""The built-in model families: short names for models, and which model usually drafts for which.

One row per family. A plugin adds rows with the `families` hook.
"""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.hookspecs import Family, hookimpl

STORIES = Family(
    "stories",
    target="stories-11m",
    drafter="stories-1m",
    models={
        "stories-11m": "package:target",
        "stories-3m": "package:middle",
        "stories-1m": "package:drafter",
    },
)


def _sizes(prefix: str, hub: str, sizes: str) -> dict[str, str]:
    """{"qwen3-0.6b": "Qwen/Qwen3-0.6B", …}: one pattern, several sizes."""
    return {f"{prefix}-{size}".lower(): hub.format(size) for size in sizes.split()}


BUILT_IN = (
    STORIES,
    Family(
        "pythia",
        target="pythia-2.8b",
        drafter="pythia-70m",
        models=_sizes("pythia", "EleutherAI/pythia-{}", "70m 160m 410m 1b 1.4b 2.8b 6.9b 12b"),
    ),
    Family(
        "llama",
        target="llama-7b",
        drafter="llama-68m",
        models={
            "llama-68m": "JackFram/llama-68m",
            "llama-160m": "JackFram/llama-160m",
            "llama-7b": "huggyllama/llama-7b",
            "llama-13b": "huggyllama/llama-13b",
        },
    ),
    Family(
        "qwen2.5-instruct",
        target="qwen2.5-7b-instruct",
        drafter="qwen2.5-0.5b-instruct",
        models={
            f"qwen2.5-{size.lower()}-instruct": f"Qwen/Qwen2.5-{size}-Instruct"
            for size in "0.5B 1.5B 3B 7B 14B 32B 72B".split()
        },
    ),
    Family(
        "qwen3",
        target="qwen3-8b",
        drafter="qwen3-0.6b",
        models=_sizes("qwen3", "Qwen/Qwen3-{}", "0.6B 1.7B 4B 8B 14B 32B"),
    ),
    Family(
        "deepseek-r1-distill-qwen",
        target="deepseek-r1-distill-qwen-7b",
        drafter="deepseek-r1-distill-qwen-1.5b",
        models=_sizes(
            "deepseek-r1-distill-qwen", "deepseek-ai/DeepSeek-R1-Distill-Qwen-{}", "1.5B 7B 14B 32B"
        ),
    ),
    Family(
        "llama-3",
        target="llama-3.1-8b-instruct",
        drafter="llama-3.2-1b-instruct",
        models={
            "llama-3.2-1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
            "llama-3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
            "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
            "llama-3.1-70b-instruct": "meta-llama/Llama-3.1-70B-Instruct",
            "llama-3.3-70b-instruct": "meta-llama/Llama-3.3-70B-Instruct",
        },
    ),
)


@hookimpl
def families() -> Iterable[Family]:
    """The built-in rows; plugins provide theirs by the same hook."""
    return BUILT_IN


def find_family(model: str, known: Iterable[Family]) -> Family | None:
    """The family that has this alias or hub id, if any."""
    return next((f for f in known if model in f.models or model in f.models.values()), None)
