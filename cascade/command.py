"""`toolkit cascade`: small models first, larger ones where they pay."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.cli import options
from toolkit.extras import require_extra


@click.group()
def cascade() -> None:
    """Answer with a small model where that is good enough, with a larger one otherwise."""


@cascade.command()
@click.argument("rows", type=options.FILE)
@click.option(
    "--scorer", metavar="SPEC", default="logistic", show_default=True, help="Scorer of the answers."
)
@click.option(
    "--cost",
    type=click.Choice(["seconds", "flops", "bytes"]),
    default="seconds",
    show_default=True,
    help="What a stage costs.",
)
@options.out(default=Path("cascade-report"), help="Folder of the page and its figures.")
@options.plugin()
def report(rows: Path, scorer: str, cost: str, out: Path, plugins: tuple[Path, ...]) -> None:
    """Compare all policies on the recorded answers in ROWS, in the terminal and on an HTML page.

    Policies are fitted on one half of the prompts and reported on the other.
    """
    require_extra("toolkit cascade report", "plots", "jinja2", "matplotlib")
    chosen = options.load_registry(plugins).resolve("scorer", scorer).build()
    from toolkit.progress import show_progress, working
    from toolkit.terminal import print_table

    from .answers import read_answers
    from .report import list_notes, make_tables, write_report
    from .study import Study

    with show_progress(), working("fitting the policies, and running the online ones"):
        study = Study.of(read_answers(rows), chosen, cost)
        page = write_report(study, out)
    for table in make_tables(study):
        print_table(table)
        click.echo()
    for note in list_notes(study):
        click.echo(note)
    click.echo(f"wrote {page} and {len(list(out.glob('*.png')))} figures beside it")
