"""The rows of `runs` and `requests`: the bench's columns beside those of `toolkit run --out`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from attrs import asdict, evolve

from toolkit import Choice, Run, Step, format_value, options_of, run_record

from .arms import PARTS, Arm
from .columns import SCHEMA_VERSION, ArmColumns, SampleColumns
from .configuration import model_revisions
from .engines import Decoded
from .prepared_plan import PreparedPlan, Task
from .store import Row


def make_run(prepared: PreparedPlan, arm: Arm) -> Run:
    """The run of an arm; an arm of Hugging Face's has no strategies but its drafter."""
    run = run_record(prepared.pipelines[arm.name])
    if arm.engine == "toolkit":
        return run
    return evolve(run, shaper="none", verifier="none", kv="none", draft_kv="none")


def make_arm_row(
    prepared: PreparedPlan,
    arm: Arm,
    real: Arm,
    run: Run,
    *,
    digest: str,
    tuned: str | None,
    bandwidth: float,
) -> Row:
    """An arm's row in `runs`. `real`: the arm as tuned; `bandwidth` in bytes per second."""
    pipeline = prepared.pipelines[real.name]
    columns = ArmColumns(
        schema_version=SCHEMA_VERSION,
        config_digest=digest,
        plan=prepared.plan.toml,
        arm=arm.name,
        arm_spec=real.spec,
        engine=real.engine,
        baseline=prepared.baseline(arm).name,
        lossless=prepared.is_lossless(real),
        synthetic=pipeline.drafter.is_synthetic,
        tuned=tuned,
        options=json.dumps({part: _list_options(getattr(pipeline, part)) for part in PARTS}),
        models=json.dumps(model_revisions(prepared)),
        datasets=json.dumps({name: s.revision for name, s in prepared.sources.items()}),
        weight_bytes=pipeline.pool.load(pipeline.target).weight_bytes,
        bandwidth_bytes_per_s=bandwidth,
    )
    return asdict(run) | asdict(columns)


def _list_options(choice: Choice[Any]) -> dict[str, Any]:
    """Every option of a strategy with its value, defaults included."""
    values: dict[str, Any] = {"name": choice.cls.name}
    for option in options_of(choice.cls):
        value = choice[option.name]
        plain = isinstance(value, (int, float, str, bool))
        values[option.name] = value if plain else format_value(value)
    return values


def make_request_row(task: Task, started: datetime, decoded: Decoded, load: float | None) -> Row:
    """A request's row. `started`: UTC; `load`: the share of the CPU that others used."""
    group, request = task.group, decoded.request
    reached, accepted = (
        count_by_depth(decoded.generation.steps) if decoded.generation else (None, None)
    )
    columns = SampleColumns(
        arm=task.arm.name,
        split=group.split,
        dataset=group.setting.dataset,
        prompt_index=group.talk.index,
        turn=group.turn,
        prompt_limit=group.setting.prompt_limit,
        max_new_tokens=group.setting.max_new_tokens,
        round=group.round,
        place=task.place,
        started=started,
        wall_ms=decoded.wall_ms,
        load=load,
        against_ar=None,
        places=None,
        first_tokens=decoded.first_tokens,
        path_length=request.accepted / request.steps if request.steps else None,
        distinct_3grams=share_distinct_3grams(request.token_ids),
        reached_by_depth=reached,
        accepted_by_depth=accepted,
    )
    return asdict(request) | asdict(columns)


def share_distinct_3grams(tokens: Sequence[int]) -> float | None:
    """Distinct runs of three tokens over all runs: 1 without repetition, near 0 in a loop."""
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(grams)) / len(grams) if grams else None


def count_by_depth(steps: Sequence[Step]) -> tuple[list[int], list[int]]:
    """For each depth from 1: the steps whose tree reached it, and those that accepted a token there."""
    deepest = max((step.depth for step in steps), default=0)
    depths = range(1, deepest + 1)
    reached = [sum(step.depth >= depth for step in steps) for depth in depths]
    accepted = [sum(step.accepted >= depth for step in steps) for depth in depths]
    return reached, accepted
