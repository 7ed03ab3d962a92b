"""What must be equal for all results in a folder: plan, prompts, models, versions and machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from attrs import asdict

from toolkit import Run, ToolkitError

from .prepared_plan import PreparedPlan
from .store import Row

ENVIRONMENT = (
    "toolkit_version python torch transformers platform device cpu threads isa torch_isa dtype"
).split()


def digest_configuration(prepared: PreparedPlan, run: Run) -> str:
    """sha256 of everything that must not change within a folder of results."""
    talks = {
        name: [asdict(talk) for found in splits.values() for talk in found]
        for name, splits in prepared.talks.items()
    }
    environment = {name: getattr(run, name) for name in ENVIRONMENT} | {
        "models": model_revisions(prepared),
        "data": {name: source.revision for name, source in prepared.sources.items()},
    }
    return hash_json({"plan": asdict(prepared.plan), "talks": talks, "environment": environment})


def hash_json(configuration: dict[str, Any]) -> str:
    """sha256 of JSON with sorted keys."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def model_revisions(prepared: PreparedPlan) -> dict[str, str | None]:
    """The hub commit or sha256 of every model, by name."""
    return {
        name: pipeline.pool.revision(name)
        for pipeline in prepared.pipelines.values()
        for name in pipeline.models
    }


def require_same_plan(path: Path, kept: Row, prepared: PreparedPlan) -> None:
    """Raise `ToolkitError` when a row of `runs` in folder `path` was written for another plan."""
    before, now = kept["plan"].splitlines(), prepared.plan.toml.splitlines()
    if before != now:
        gone = next((line.strip() for line in before if line not in now), "nothing")
        new = next((line.strip() for line in now if line not in before), "nothing")
        raise _mixing(path, f"the plan has {new} where it had {gone}")


def require_same(path: Path, kept: Row, prepared: PreparedPlan, run: Run, digest: str) -> None:
    """Raise `ToolkitError` when a row of `runs` in folder `path` has another digest; the error names
    the first difference to this plan and run."""
    if kept["config_digest"] == digest:
        return
    for name in ENVIRONMENT:
        if kept[name] != getattr(run, name):
            raise _mixing(path, f"{name} was {kept[name]} and is {getattr(run, name)}")
    require_same_plan(path, kept, prepared)
    raise _mixing(path, "models or data sets of the same names have changed")


def _mixing(path: Path, problem: str) -> ToolkitError:
    return ToolkitError(
        f"{path} holds results of another configuration: {problem}; results of two do not mix, so "
        f"name another folder with --out"
    )
