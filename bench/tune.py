"""Tuning: a baseline's options are chosen on held-out prompts, by the speed that will be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from attrs import evolve

from toolkit import Choice, Registry, ToolkitError, options_of

from .arms import Arm
from .plan import Tune


def candidates(
    tunes: Iterable[Tune], arms: Sequence[Arm], registry: Registry
) -> dict[str, list[Arm]]:
    """Every combination of a grid as an arm. Raises `ToolkitError`: no such arm or option."""
    found: dict[str, list[Arm]] = {}
    for tune in tunes:
        arm = next((arm for arm in arms if arm.name == tune.arm), None)
        if arm is None or arm.engine != "toolkit":
            names = [arm.name for arm in arms if arm.engine == "toolkit"]
            raise ToolkitError(
                f"cannot tune {tune.arm!r}: it is the name of an arm of ours, one of {', '.join(names)}"
            )
        found[arm.name] = [
            _with(arm, dict(zip(tune.grid, values, strict=True)), registry)
            for values in product(*tune.grid.values())
        ]
    return found


def _with(arm: Arm, options: dict[str, Any], registry: Registry) -> Arm:
    """The arm with these options of its shaper, or of its drafter, in place of its own."""
    specs = {"drafter": "model", "shaper": "adaptive"} | arm.specs
    for name, value in options.items():
        for part in ("shaper", "drafter"):
            choice = registry.resolve(part, specs[part])
            if name in {option.name for option in options_of(choice.cls)}:
                given = dict(choice.options) | {name: value}
                specs[part] = str(registry.resolve(part, Choice(choice.cls, tuple(given.items()))))
                break
        else:
            raise ToolkitError(
                f"cannot tune {name!r} of arm {arm.name!r}: neither its shaper nor its drafter has "
                f"that option"
            )
    shown = ",".join(f"{name}={value}" for name, value in options.items())
    return evolve(arm, name=f"{arm.name} {shown}", parts=tuple(specs.items()))


def best(trials: Sequence[Arm], rows: Sequence[dict[str, Any]]) -> Arm:
    """The candidate with the greatest geometric mean of tokens per second over the same requests."""

    def speed(arm: Arm) -> float:
        mine = [row for row in rows if row["arm"] == arm.name]
        rates = [math.log(len(row["token_ids"]) / row["wall_ms"]) for row in mine]
        return sum(rates) / len(rates) if rates else -math.inf

    return max(trials, key=speed)
