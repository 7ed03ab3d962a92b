"""Random pipelines against `model.generate`, for as long as you like: make fuzz MINUTES=10 SEED=7.

The first failing case is shrunk and written as a script, fuzz-failure-SEED.py.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from pathlib import Path
from time import monotonic

import attrs
import case as cases
import click
from case import Case, Request, Result, results
from draw import drawn
from rich.console import Console
from rich.table import Table
from shrink import shrunk

sys.path.append(str(Path(__file__).parents[2] / "tools"))
from saboteurs import GALLERY

OF_CASCADES = {"scores-are-probabilities", "stops-alike-again"}  # they decode nothing
OUTCOMES = ("exact", "tie", "failed", "nothing drafted", "refused")
COMPARED = OUTCOMES[:3]
EVERY = 5.0  # seconds between lines of progress
INTERRUPTED = 130


@attrs.define
class Totals:
    """What came of all requests so far."""

    began: float = attrs.field(factory=monotonic)
    counts: Counter[tuple[str, str, str]] = attrs.field(factory=Counter)  # title, name, outcome
    reasons: Counter[str] = attrs.field(factory=Counter)  # of what was refused
    nodes: Counter[str] = attrs.field(factory=Counter)  # drafted ones, accepted or rejected

    def add(self, case: Case, request: Request, result: Result) -> None:
        """Count a request under everything that it was decoded with."""
        kernels = "" if case.kernels else ", no kernels of ours"
        labels = {
            "all": "",
            "drafter": _name(case.drafter),
            "shaper": _name(case.shaper),
            "verifier": _name(case.verifier),
            "kv": _name(case.kv),
            "draft_kv": _name(case.draft_kv),
            "model": case.family,
            "run as": f"{case.dtype}, {case.executor}{kernels}",
            "threads": str(request.threads),
        }
        for title, name in labels.items():
            self.counts[title, name, result.outcome] += 1
        if result.outcome == "refused":
            self.reasons[_reason(result.why)] += 1
        for step in result.generation.steps if result.generation else ():
            self.nodes["accepted"] += step.accepted
            self.nodes["rejected"] += step.nodes - 1 - step.accepted

    def of(self, *outcomes: str) -> int:
        """Requests with one of some outcomes."""
        return sum(self.counts["all", "", outcome] for outcome in outcomes)

    def __str__(self) -> str:
        count = {outcome: self.of(outcome) for outcome in OUTCOMES}
        return (
            f"{monotonic() - self.began:.0f} s: {sum(count.values())} requests, "
            f"{self.of(*COMPARED)} compared, {count['tie']} ties, {count['failed']} divergences; "
            f"{count['nothing drafted']} drafted nothing, {count['refused']} refused"
        )

    def show(self, console: Console) -> None:
        """Print the totals, by everything that was drawn."""
        console.print(str(self), highlight=False)
        table = Table("", "", *OUTCOMES)
        for title in dict.fromkeys(title for title, _, _ in self.counts):
            table.add_section()
            for name in sorted({name for of, name, _ in self.counts if of == title}):
                row = [self.counts[title, name, outcome] for outcome in OUTCOMES]
                table.add_row(title, name, *map(str, row))
        console.print(table)
        for reason, count in self.reasons.most_common():
            console.print(f"{count} requests refused: {reason}", markup=False)
        said = ", ".join(f"{count} {what}" for what, count in self.nodes.items())
        console.print(f"drafted tokens: {said or 'none'}")


def _name(spec: str) -> str:
    return spec.partition(":")[0]


def _reason(why: str) -> str:
    """A refusal without its specs and numbers."""
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "…", why))


def written(case: Case) -> str:
    """A case in Python, without what is as by default."""
    values = {field.name: getattr(case, field.name) for field in attrs.fields(Case)
              if getattr(case, field.name) != field.default}  # fmt: skip
    lines = "".join(f"    {name}={value!r},\n" for name, value in values.items())
    return f"Case(\n{lines})"


def script(case: Case, kind: str, seed: int) -> str:
    """A program that decodes a case and exits with 1 when a request fails."""
    source = Path(cases.__file__).read_text(encoding="utf-8")
    return (
        f"# Found by make fuzz SEED={seed}, and shrunk: {kind}.\n{source}\n\n"
        f"CASE = {written(case)}\n\n"
        'if __name__ == "__main__":\n    raise SystemExit(main(CASE))\n'
    )


def report(case: Case, failure: Result, seed: int, console: Console) -> None:
    """Shrink a failing case and write its script."""
    console.print(f"{failure.why}\nin {written(case)}\nShrinking …", markup=False)
    small = shrunk(case, failure.kind)
    path = Path(f"fuzz-failure-{seed}.py")
    path.write_text(script(small, failure.kind, seed), encoding="utf-8")
    console.print(f"{written(small)}\nRun it again: python {path}", markup=False)


def fuzz(seed: int, minutes: float, requests: int, sabotage: str, console: Console) -> int:
    """Decode cases until time is up, enough requests are compared, or one fails."""
    totals = Totals()
    said = totals.began
    try:
        for case in drawn(seed, sabotage):
            for request, result in zip(case.requests, results(case), strict=True):
                totals.add(case, request, result)
                if result.outcome == "failed":
                    report(case, result, seed, console)
                    return 1
            now = monotonic()
            if now - totals.began > 60 * minutes or totals.of(*COMPARED) >= requests:
                return 0
            if now - said > EVERY:
                console.print(str(totals), highlight=False)
                said = now
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        totals.show(console)
    return 0


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="how long")
@click.option("--requests", default=sys.maxsize, help="stop after so many were compared")
@click.option("--seed", type=int, help="of the cases; without it, any")
@click.option(
    "--sabotage",
    default="",
    type=click.Choice(["", *dict.fromkeys(bug.name for bug in GALLERY if bug.by not in OF_CASCADES)]),
    metavar="NAME",
    help="a bug of the conformance kit's gallery: the run must fail",
)
def main(minutes: float, requests: int, seed: int | None, sabotage: str) -> None:
    """Random pipelines against transformers' `model.generate` and against AR; fails at the first that
    differs."""
    seed = random.randrange(1_000_000) if seed is None else seed
    console = Console(width=110)
    console.print(f"seed {seed}: make fuzz SEED={seed} draws the same cases", highlight=False)
    raise SystemExit(fuzz(seed, minutes, requests, sabotage, console))


if __name__ == "__main__":
    main()
