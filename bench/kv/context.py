"""What a bounded KV cache saves over context length: a plan of the bench, and its results as rows."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ..columns import Context
from ..machine import describe_machine
from ..plan import Plan
from ..results import Results


def make_plan(
    policies: Sequence[str], drafters: Sequence[str], contexts: list[int], **rest: Any
) -> Plan:
    """AR under `full` and under each policy, then each drafter under `full`. Raises `ToolkitError`.

    Every prompt is the data set `text`. Every arm warms up once at each length.
    """
    arms = ["ar", *(f"ar kv={shlex.quote(policy)}" for policy in policies)]
    arms += [f"drafter={shlex.quote(drafter)} shaper=chain" for drafter in drafters]
    lengths = sorted(set(contexts))
    data = {"arms": arms, "datasets": ["text"], "prompt_tokens": lengths, "ignore_eos": True}
    return Plan.of({**data, "warmup": len(lengths), **rest}, "the command line")


def summarize(results: Results) -> Iterator[Context]:
    """A row per context length and arm, the shortest context first; those that were measured."""
    baseline = next(iter(results.by_arm), "")
    for setting in results.settings:
        for arm, run in results.by_arm.items():
            summary, ratio = results.summarize(arm, setting), results.ratio(arm, setting, baseline)
            rows = results.rows(arm, setting)
            if ratio is not None and summary.tokens_per_s is not None:
                yield Context(
                    machine=describe_machine(run),
                    target=run["target"],
                    drafter=run["drafter"],
                    kv=run["kv"],
                    prompt_tokens=setting.prompt_limit,
                    new_tokens=setting.max_new_tokens,
                    rounds=len(rows),
                    tau=summary.tau,
                    tokens_per_s=summary.tokens_per_s,
                    against_ar=ratio.mean,
                    against_ar_low=ratio.low,
                    against_ar_high=ratio.high,
                    ttft_ms=summary.ttft_ms or math.nan,
                    kv_bytes=max(row["kv_bytes"] for row in rows),
                    kv_peak_bytes=max(row["kv_peak_bytes"] for row in rows),
                    draft_kv_bytes=max(row["draft_kv_bytes"] for row in rows),
                )
