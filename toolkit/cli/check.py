"""`toolkit check`: test a strategy against every property that applies to it, on generated examples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from toolkit.cli import options
from toolkit.extras import require_extra
from toolkit.progress import show_progress

if TYPE_CHECKING:
    from toolkit.conformance import Finding

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
STATUS = {"pass": 0, "fail": 1, "inconclusive": 3}


@click.command()
@click.argument("spec")
@options.kind(help="Kind of the strategy; needed where strategies of two kinds have the name.")
@click.option(
    "--never",
    multiple=True,
    type=click.Choice(["drafted", "accepted", "rejected", "hidden"]),
    help="What never happens with this strategy, by design; may be repeated.",
)
@click.option(
    "--max-examples",
    type=options.Whole(min=1),
    default=60,
    show_default=True,
    help="Examples per property.",
)
@options.json_file(help="Write a report as JSON.")
@options.plugin()
def check(
    spec: str,
    kind: str | None,
    never: tuple[str, ...],
    max_examples: int,
    json_file: Path | None,
    plugins: tuple[Path, ...],
) -> None:
    """Test every property that applies to SPEC on generated trees, prompts and tiny models.

    Models that SPEC names are replaced by tiny ones. Exit status 0: all properties pass. 1: one fails;
    the first one's smallest failing example is shown, and what fails for the same cause is one line.
    3: none fails, but one was not tested (INCONCLUSIVE).
    """
    require_extra("toolkit check", "testing", "hypothesis")
    if json_file is not None:
        options.require_writable(json_file)
    found = options.load_registry(plugins)
    choice = found.resolve(kind or found.kind_of(spec.partition(":")[0]), spec)
    from toolkit.conformance.kit import check as checked
    from toolkit.runtime.models.quiet import quiet

    quiet()
    findings: list[Finding] = []
    complete = False
    try:
        with show_progress():
            for finding in checked(choice, never=never, max_examples=max_examples, registry=found):
                if not finding.cause:
                    _show(finding, findings)
                findings.append(finding)
        complete = True
    finally:  # an interrupted check writes what it has found
        if json_file is not None and findings:
            text = json.dumps(summary(spec, findings, complete), ensure_ascii=False, indent=1)
            json_file.write_text(text + "\n", encoding="utf-8")
    counts: Counter[str] = Counter(finding.outcome for finding in findings)
    also = [finding.name for finding in findings if finding.cause]
    if also:
        click.echo(f"{click.style('also failed: ', fg='red')}{', '.join(also)}")
    if counts["fail"] > 1:
        click.echo("Mend the first failure first; --json FILE has the examples of all.")
    click.echo(", ".join(f"{counts[outcome]} {outcome}" for outcome in STATUS if counts[outcome]))
    raise SystemExit(STATUS[verdict(findings)])


def verdict(findings: list[Finding]) -> str:
    """The worst outcome of all: fail, then inconclusive, then pass."""
    outcomes = {finding.outcome for finding in findings}
    return next(worst for worst in ("fail", "inconclusive", "pass") if worst in outcomes)


def summary(spec: str, findings: list[Finding], complete: bool) -> dict[str, Any]:
    """The report that `--json` writes; `verdict` is null when the check was interrupted."""
    from importlib.metadata import version

    return {
        "spec": spec,
        "verdict": verdict(findings) if complete else None,
        "toolkit": version("speculative-toolkit"),
        "properties": [attrs.asdict(finding) for finding in findings],
    }


def _show(finding: Finding, before: list[Finding]) -> None:
    """Print a finding: the first failure in full, later ones without an example, and nothing twice."""
    mark = click.style(f"{finding.outcome.upper():13}", fg=COLOURS[finding.outcome])
    click.echo(f"{mark}{finding.name:27} {finding.examples:>4} examples {finding.seconds:5.1f} s")
    details = finding.details
    if finding.outcome == "fail" and any(other.outcome == "fail" for other in before):
        details = "\n\n".join(details.split("\n\n")[:2])  # what must hold, and what happened
    if details and all(other.details != details for other in before):
        click.echo("\n" + "\n".join(f"    {line}" for line in details.splitlines()) + "\n")
