"""What goes into the tables beside a request's own figures: its arm, its place, the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import asdict

from toolkit import Choice, Run, ToolkitError, options_of

from .arms import Arm
from .columns import SCHEMA_VERSION
from .engines import Outcome
from .metrics import distinct_3grams
from .prepared_plan import Group, PreparedPlan, Task
from .store import Row

PARTS = ("drafter", "shaper", "verifier", "kv", "draft_kv")
ENVIRONMENT = (
    "toolkit_version python torch transformers platform device cpu threads isa torch_isa dtype"
).split()


def arm_columns(
    prepared: PreparedPlan, arm: Arm, real: Arm, tuned: str | None, bandwidth: float
) -> Row:
    """An arm's columns in `runs`; `real` is what it became by tuning."""
    pipeline = prepared.pipelines[real.name]
    target = pipeline.pool.load(pipeline.target)
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": prepared.plan.toml,
        "arm": arm.name,
        "arm_spec": real.spec,
        "engine": real.engine,
        "baseline": prepared.baseline(arm).name,
        "lossless": prepared.lossless(real),
        "tuned": tuned,
        "options": json.dumps({part: _options(getattr(pipeline, part)) for part in PARTS}),
        "models": json.dumps(models(prepared)),
        "datasets": json.dumps({name: s.revision for name, s in prepared.sources.items()}),
        "weight_bytes": target.weight_bytes,
        "bandwidth_bytes_per_s": bandwidth,
    }


def _options(choice: Choice[Any]) -> dict[str, Any]:
    """Every option of a strategy with its value, defaults included."""
    values: dict[str, Any] = {"name": choice.cls.name}
    for option in options_of(choice.cls):
        value = choice[option.name]
        plain = isinstance(value, (int, float, str, bool))
        values[option.name] = value if plain else str(value)
    return values


def sample_columns(task: Task, started: str, outcome: Outcome, others: float | None) -> Row:
    """A request's columns beyond its own figures."""
    group, setting = task.group, task.group.setting
    return {
        "arm": task.arm.name,
        "split": group.split,
        "dataset": setting.dataset,
        "prompt_index": group.talk.index,
        "turn": group.turn,
        "prompt_limit": setting.prompt_limit,
        "max_new_tokens": setting.max_new_tokens,
        "order": task.order,
        "started": started,
        "wall_ms": outcome.wall_ms,
        "load": others,
        "first_tokens": outcome.first_tokens,
        "path_length": outcome.path_length,
        "distinct_3grams": distinct_3grams(outcome.request.token_ids),
        "reached_by_depth": outcome.reached,
        "accepted_by_depth": outcome.accepted,
    }


def key_of(row: Row) -> tuple[Any, ...]:
    """What a row shares with the rows that it is compared with."""
    names = ("split", "dataset", "prompt_index", "turn", "prompt_limit", "max_new_tokens")
    return tuple(row[name] for name in names)


def group_key(group: Group, split: str) -> tuple[Any, ...]:
    """`key_of` the rows of a group, as if it were of this split."""
    s = group.setting
    return split, s.dataset, group.talk.index, group.turn, s.prompt_limit, s.max_new_tokens


def environment(record: Run, prepared: PreparedPlan) -> Row:
    """What of machine, versions, models and data must not change within a folder."""
    values = asdict(record)
    data = {name: source.revision for name, source in prepared.sources.items()}
    return {name: values[name] for name in ENVIRONMENT} | {"models": models(prepared), "data": data}


def models(prepared: PreparedPlan) -> dict[str, str | None]:
    """Every model by name, with what its weights are."""
    return {
        name: pipeline.pool.revision(name)
        for pipeline in prepared.pipelines.values()
        for name in pipeline.models
    }


def difference(kept: Row, record: Run, prepared: PreparedPlan) -> str:
    """The first thing in which a kept run and this one differ, in words."""
    values = asdict(record)
    for name in ENVIRONMENT:
        if kept[name] != values[name]:
            return f"{name} was {kept[name]} and is {values[name]}"
    return plan_difference(kept, prepared) or "models or data sets of the same names have changed"


def plan_difference(kept: Row, prepared: PreparedPlan) -> str | None:
    """The first line in which a kept run's plan and this one differ; None when they are equal."""
    before, now = kept["plan"].splitlines(), prepared.plan.toml.splitlines()
    if before == now:
        return None
    gone = next((line.strip() for line in before if line not in now), "nothing")
    new = next((line.strip() for line in now if line not in before), "nothing")
    return f"the plan has {new} where it had {gone}"


def refuse_mixing(path: Path, problem: str | None) -> None:
    """Raise `ToolkitError` when results of two configurations would come into one folder."""
    if problem is not None:
        raise ToolkitError(
            f"{path} holds results of another configuration: {problem}; results of two do not mix, so "
            f"name another folder with --out"
        )
