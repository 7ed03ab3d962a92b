"""A fitted cascade as a JSON file: its stages, scorers, policy, and the prompts it was fitted on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from toolkit import Choice, Registry, Scorer, StopPolicy, ToolkitError, open_atomically

from .calibration import Calibrated

KIND = "toolkit cascade, 1"


@frozen(eq=False)
class FittedCascade:
    """What `toolkit cascade fit` found. With two policies, a prompt takes the second one with
    probability `share`: that meets a budget in expectation."""

    stages: list[str]
    scorers: list[Calibrated]
    policies: list[StopPolicy]
    share: float
    trade_off: float
    cost: str
    fitted_on: list[str]

    def policy_of(self, draw: float) -> StopPolicy:
        """The policy of a prompt, by a uniform draw."""
        return self.policies[-1] if draw < self.share else self.policies[0]


def write_fitted(fitted: FittedCascade, file: Path) -> None:
    """Write a fitted cascade as JSON."""
    data = {
        "kind": KIND,
        "stages": fitted.stages,
        "scorers": [
            _state(each.scorer) | {"scores": each.scores, "qualities": each.qualities}
            for each in fitted.scorers
        ],
        "policies": [_state(policy) for policy in fitted.policies],
        "share": fitted.share,
        "trade_off": fitted.trade_off,
        "cost": fitted.cost,
        "fitted_on": fitted.fitted_on,
    }
    with open_atomically(file) as out:
        out.write(json.dumps(data, indent=1).encode())


def read_fitted(file: Path, registry: Registry) -> FittedCascade:
    """Read a fitted cascade. Raises `ToolkitError` for another file."""
    try:
        data = json.loads(file.read_text())
        if data["kind"] != KIND:
            raise KeyError("kind")
        scorers = [
            Calibrated(_restored(each, registry, "scorer"), each["scores"], each["qualities"])
            for each in data["scorers"]
        ]
        policies = [_restored(each, registry, "policy") for each in data["policies"]]
        return FittedCascade(
            data["stages"], scorers, policies, data["share"], data["trade_off"], data["cost"],
            data["fitted_on"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolkitError(
            f"{file} is no fitted cascade: make it with `toolkit cascade fit`"
        ) from error


def _state(part: Scorer | StopPolicy) -> dict[str, Any]:
    fields = attrs.fields(type(part))  # type: ignore[arg-type]  # every strategy is an attrs class
    state = {f.name: getattr(part, f.name) for f in fields if not f.init}
    return {
        "spec": str(Choice.of(part)),
        "state": {name: value for name, value in state.items() if _is_plain(value)},
    }


def _is_plain(value: object) -> bool:
    return isinstance(value, (bool, int, float, str, list))


def _restored(data: dict[str, Any], registry: Registry, kind: str) -> Any:
    part = registry.resolve(kind, data["spec"]).build()
    for name, value in data["state"].items():
        setattr(part, name, value)
    return part


def split_by_prompt(share: float) -> Callable[[str], bool]:
    """Which prompts are for fitting: by their ids, so the same ones every time."""
    limit = int(share * 2**16)
    return lambda prompt: int(prompt[:4], 16) < limit
