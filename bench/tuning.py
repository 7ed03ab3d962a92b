"""Tuning: choose an arm's options on held-out prompts, by the speed that the bench compares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from attrs import evolve

from toolkit import Choice, Registry, ToolkitError, options_of
from toolkit.words import quote

from .arms import Arm, require_count, require_few
from .plan import Tune


def list_candidates(
    tunes: Iterable[Tune], arms: Sequence[Arm], registry: Registry
) -> dict[str, list[Arm]]:
    """Every combination of a grid as an arm, by the tuned arm's name.

    Raises `ToolkitError` for an unknown arm or option.
    """
    tunes = list(tunes)
    require_few(sum(math.prod(map(len, tune.grid.values())) for tune in tunes), "values to try")
    known = {arm.name: arm for arm in arms if arm.engine != "hf:generate"}
    found: dict[str, list[Arm]] = {}
    for tune in tunes:
        if tune.arm not in known or tune.arm in found:
            raise ToolkitError(
                f"cannot tune {quote(tune.arm)}: name one of {', '.join(known)}, and each once"
            )
        arm = known[tune.arm]
        make = _set_options if arm.engine == "toolkit" else _set_k
        found[arm.name] = [
            make(arm, dict(zip(tune.grid, values, strict=True)), registry)
            for values in product(*tune.grid.values())
        ]
    return found


def _set_k(arm: Arm, options: dict[str, Any], _: Registry) -> Arm:
    """An arm of Hugging Face's with another k, its only option."""
    if set(options) != {"k"}:
        raise ToolkitError(f"cannot tune {', '.join(options)} of arm {arm.name!r}: it has only k")
    require_count(str(options["k"]), arm.name)
    specs = arm.specs | {"k": str(options["k"])}
    return evolve(arm, name=f"{arm.name} k={options['k']}", parts=tuple(specs.items()))


def _set_options(arm: Arm, options: dict[str, Any], registry: Registry) -> Arm:
    """The arm with other options of its shaper or its drafter."""
    specs = {"drafter": "model", "shaper": "adaptive"} | arm.specs
    for name, value in options.items():
        for part in ("shaper", "drafter"):
            choice = registry.resolve(part, specs[part])
            if name in {option.name for option in options_of(choice.cls)}:
                others = tuple((key, given) for key, given in choice.options if key != name)
                quoted = f"[{value}]" if "," in str(value) else value
                spec = f"{Choice(choice.cls, others)}{',' if others else ':'}{name}={quoted}"
                specs[part] = str(registry.resolve(part, spec))
                break
        else:
            raise ToolkitError(
                f"cannot tune {name!r} of arm {arm.name!r}: neither its shaper nor its drafter has "
                f"that option"
            )
    words = ",".join(f"{name}={value}" for name, value in options.items())
    return evolve(arm, name=f"{arm.name} {words}", parts=tuple(specs.items()))


def choose_best(trials: Sequence[Arm], rows: Sequence[dict[str, Any]]) -> Arm:
    """The candidate with the greatest geometric mean of tokens per second of the whole request."""

    def speed(arm: Arm) -> float:
        mine = [row for row in rows if row["arm"] == arm.name]
        rates = [math.log(len(row["token_ids"]) / row["wall_ms"]) for row in mine]
        return sum(rates) / len(rates) if rates else -math.inf

    return max(trials, key=speed)
