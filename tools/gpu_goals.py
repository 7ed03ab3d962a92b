"""The goals of the GPU bench, and which of them its rows meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import ge, le
from typing import Any

from attrs import frozen

STATIC = ("chain:k=4", "fixed:threshold=0", "growmap")
BASELINES = ("AR", "generate", "assisted", "410m")  # what is no shaper on the 2.8 B target
ASSISTED = ("assisted, k = 8", "assisted, k = 16")
AGAINST = "× AR"  # measures: speed over AR's, prompt by prompt
SHARE = "of the limit"  # speed over that which memory allows
OVERHEAD = "shaping and committing"
COST = "cost of bitwise"
COPIES = "copies beyond levels"  # those of one direction, less one for each level of the drafter
PAGEABLE = "pageable copies"  # for which the host waits
LEVEL = "drafter level over target pass"
FALLEN = ("failed", "fell back")  # measures of what must not be overlooked

Rows = Iterable[dict[str, Any]]


@frozen
class Goal:
    """A goal, and what was measured."""

    what: str
    holds: Callable[[float, float], bool]  # of what was measured, and the limit
    limit: float
    value: float | None
    unit: str = ""
    of: str = ""  # whose figure it is
    missing: tuple[str, ...] = ()  # whose figures could have been worse, but were not measured

    @property
    def line(self) -> str:
        """A row of a Markdown table."""
        sign = "≥" if self.holds is ge else "≤"
        goal = f"{sign} {self.limit:g} {self.unit}".strip()
        if self.value is None:
            return f"| {self.what} | {goal} | | not measured |"
        measured = f"{self.value:.3g} {self.unit}".strip() + (f" ({self.of})" if self.of else "")
        met = "yes" if self.holds(self.value, self.limit) else "**no**"
        if self.missing:
            met += f", without {'; '.join(self.missing)}"
        return f"| {self.what} | {goal} | {measured} | {met} |"


def find_goals(rows: Rows) -> list[Goal]:
    """Every goal; of several arms the best speed counts, and the worst overhead, cost and copies."""
    rows = list(rows)
    found = {(row["subject"], row["measure"]): row["value"] for row in rows if row["value"] is not None}
    failed = {row["subject"] for row in rows if row["measure"] == "failed"}

    def most(measure: str, *subjects: str) -> tuple[str, float | None, tuple[str, ...]]:
        """The subject with the greatest figure, the figure, and the subjects without one."""
        measured = {each: found[each, measure] for each in subjects if (each, measure) in found}
        name = max(measured, key=lambda each: measured[each], default="")
        return name, measured.get(name), tuple(each for each in subjects if each not in measured)

    shapers = [
        subject
        for subject, measure in found
        if measure == AGAINST
        and not subject.startswith(BASELINES)
        and ("," not in subject or subject.endswith(", whole step"))  # no KV policy, no lower level
        and subject not in failed
    ]
    best, speed, _ = most(AGAINST, *shapers)

    def faster(what: str, goal: float, *subjects: str) -> Goal:
        base, ratio, missing = most(AGAINST, *subjects)
        value = speed / ratio if speed and ratio else None
        name = f"{best} against {base}"
        return Goal(f"best shaper against {what}", ge, goal, value, "×", name, missing)

    def worst(what: str, goal: float, unit: str, measure: str, *subjects: str) -> Goal:
        name, value, missing = most(measure, *subjects)
        return Goal(what, le, goal, value, unit, name, missing)

    whole = [f"{shaper}, whole step" for shaper in STATIC]
    name, share, _ = most(SHARE, "AR", "AR, whole step")
    level = "a level of the 70 M drafter over a pass of the 2.8 B target"
    return [
        Goal("AR, 2.8 B, bf16, against the bandwidth limit", ge, 80, share, "%", name),
        worst(f"{level}, as graphs", 0.06, "", "ratio", f"{LEVEL}, as graphs"),
        worst(f"{level}, pass by pass", 0.06, "", "ratio", LEVEL),
        Goal("best shaper against our own AR", ge, 2.4, speed, "×", best),
        faster("transformers' generate", 6, "generate"),
        faster("transformers' generate, static cache, compiled", 6, "generate, static cache"),
        faster("transformers' assisted generation, its best k", 4, *ASSISTED),
        worst("shaping and committing, static shapers", 3, "% of a step", OVERHEAD, *whole),
        worst("shaping and committing, adaptive", 8, "% of a step", OVERHEAD, "adaptive"),
        worst("what level bitwise costs", 10, "%", COST, "AR", "budget"),
        worst("copies in a whole step, both ways", 2, "", "copies", *whole, "AR, whole step"),
        worst(
            "copies in a step pass by pass, one way, less its levels", 2, "",
            COPIES, "AR", "budget", *STATIC,
        ),
        worst(
            "pageable copies in a step", 0, "",
            PAGEABLE, "AR", "budget", *STATIC, *whole, "AR, whole step",
        ),
    ]  # fmt: skip


def describe(rows: Rows) -> list[str]:
    """Lines of Markdown: the goals, and what failed or fell back."""
    rows = list(rows)
    lines = ["## Goals", "", "| goal | | measured | met |", "|---|---|---|---|"]
    lines += [goal.line for goal in find_goals(rows)]
    lines += ["", "## Failed or fell back", ""]
    return lines + (describe_fallen(rows) or ["Nothing."])


def describe_fallen(rows: Rows) -> list[str]:
    """What failed, or ran otherwise than it should: one line each."""
    return [
        f"- {row['stage']}, {row['subject']}: {row['measure']}: {row['note']}"
        for row in rows
        if row["measure"] in FALLEN
    ]
