"""`toolkit bench` and `toolkit report`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit import ToolkitError
from toolkit.cli import options
from toolkit.cli.options import FILE, Counts, Whole
from toolkit.extras import require_extra
from toolkit.progress import show_progress
from toolkit.words import quote

if TYPE_CHECKING:
    from toolkit import Registry

    from .plan import Plan
    from .prepared_plan import PreparedPlan
    from .results import Results
    from .store import Store

INTERRUPTED = 130


def count(*names: str, least: int = 1, **settings: Any) -> Any:
    """An option that takes a whole number."""
    return click.option(*names, type=Whole(min=least), metavar="N", show_default=True, **settings)


def counts(*names: str, **settings: Any) -> Any:
    """An option that takes positive whole numbers joined by commas."""
    return click.option(*names, type=Counts(), metavar="N,…", show_default=True, **settings)


@click.group(invoke_without_command=True)
@click.option("--plan", metavar="PLAN", help="A .toml file, or the name of a plan that ships.")
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="WORDS",
    help='What to measure, as "drafter=model shaper=adaptive" or hf:assisted; may be repeated.',
)
@options.target(default=None)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="SET",
    help="Name, or FILE:COLUMN; repeatable (stories).",
)
@count("--prompts", help="Prompts per data set (10).")
@options.prompt_tokens(
    type=Counts(), metavar="N,…", help="Most tokens of a prompt; longer ones are cut (256)."
)
@options.max_new_tokens(type=Counts(), metavar="N,…", help="T, tokens to decode (128).")
@count("--rounds", help="Times that each prompt is decoded (2).")
@count("--warmup", help="Prompts that every arm decodes first, unmeasured (2).")
@count("--seed", least=0, help="Seed of the choice of prompts, and of sampled tokens (0).")
@options.sampling()
@click.option("--ignore-eos", is_flag=True, default=None, help="Decode past stop tokens.")
@options.record()
@click.option("--tune", metavar="ARM", help="Choose this arm's options on held-out prompts.")
@click.option("--grid", metavar="GRID", help='Values to try, as "depth=3,5 branch=2,3".')
@options.models(default=None)
@options.out(default=Path("results"), help="Folder of the results.")
@click.option(
    "-o",
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv", "json"]),
    default="table",
    show_default=True,
    help="How the results are printed on stdout.",
)
@click.option("--resume", is_flag=True, help="Continue the bench in --out.")
@options.plugin()
@click.pass_context
def bench(ctx: click.Context, /, **given: Any) -> None:
    """Measure ways to decode side by side: paired, interleaved, every output compared with AR's.

    AR is always one of the arms. `toolkit bench init` writes a plan to start from; options replace
    its values. After Ctrl-C, --resume continues.
    """
    if ctx.invoked_subcommand is None:
        _bench(given)


@bench.command()
@click.argument("file", type=FILE, default=Path("bench.toml"))
def init(file: Path) -> None:
    """Write a commented plan to FILE."""
    if file.suffix != ".toml":
        raise ToolkitError(f"{file} is not a plan's name: it must end in .toml")
    if not file.absolute().parent.is_dir():
        raise ToolkitError(f"no folder {file.parent} for {file}: make it first")
    text = (files(__package__) / "template.toml").read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as error:
        raise ToolkitError(f"{file} is there already: name another file") from error
    except OSError as error:
        raise ToolkitError(f"{file} cannot be written ({error.strerror}): name another") from error
    click.echo(f"wrote {file}; run it with: toolkit bench --plan {file}")


@bench.command("list")
def list_() -> None:
    """List the plans that ship and the data sets that have names."""
    from .plan import read_protocols

    click.echo("plans:")
    for name, text in read_protocols().items():
        click.echo(f"  {name:<24}{text.splitlines()[0].removeprefix('# ')}")
    click.echo("data sets:")
    for name, dataset in sorted(options.load_registry(()).datasets.items()):
        click.echo(f"  {name:<24}{dataset.help}")


def _bench(given: dict[str, Any]) -> None:
    out, resume, form = (given.pop(key) for key in ("out", "resume", "form"))
    plan = _make_plan(given, out, resume)
    registry = options.load_registry(map(Path, plan.plugins))
    results, interrupted = run_plan(plan, registry, out, resume=resume)
    if results is not None:
        from .formats import print_results

        print_results(results, form)
        told = f"{len(results.requests)} requests in {out}; see them with: toolkit report {out}"
        click.echo(told, err=form != "table")
    if interrupted:
        from .store import Store

        kept = f"finished requests are kept; continue with: toolkit bench --resume --out {out}"
        click.echo(f"stopped: {kept if Store(out).resumable else 'nothing was measured'}", err=True)
    leave(results, interrupted)


def _make_plan(given: dict[str, Any], out: Path, resume: bool) -> Plan:
    """The plan: of a file or a name, of the folder to resume, or of the options alone."""
    from .plan import Plan

    name, tune, grid = (given.pop(key) for key in ("plan", "tune", "grid"))
    changes = {key: _list(value) for key, value in given.items() if value not in (None, ())}
    if bool(tune) != bool(grid):
        raise ToolkitError('--tune ARM and --grid "option=value,value" go together')
    if tune:
        changes["tune"] = [{"arm": tune, "grid": parse_grid(grid)}]
    if name:
        return Plan.read(name, changes)
    if resume:
        from .store import Store

        kept = Store.open(out).rows("runs")[0]["plan"]
        return Plan.loads(kept, f"the plan in {out}", changes)
    if "arms" not in changes:
        raise ToolkitError(
            'nothing to measure: give --arm "drafter=model shaper=adaptive", or --plan FILE '
            "(`toolkit bench init` writes one, `toolkit bench list` names those that ship)"
        )
    return Plan.of(changes, "the command line")


def _list(value: Any) -> Any:
    """A value as TOML has it."""
    if isinstance(value, tuple):
        return [str(item) if isinstance(item, Path) else item for item in value]
    return value


def parse_grid(text: str) -> dict[str, list[str]]:
    """`depth=3,5 branch=2` → {"depth": ["3", "5"], "branch": ["2"]}. Raises `ToolkitError`."""
    grid: dict[str, list[str]] = {}
    for word in text.split():
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise ToolkitError(
                f'--grid takes words such as "depth=3,5 branch=2,3", not {quote(word)}'
            )
        grid[name] = values.split(",")
    return grid


def run_plan(
    plan: Plan, registry: Registry, out: Path, *, resume: bool = False
) -> tuple[Results | None, bool]:
    """Run a plan into the folder `out`: its results, where there are any, and whether it was stopped.

    Whatever can be rejected is rejected before weights load. Raises `ToolkitError`.
    """
    from toolkit import quiet

    from .lock import hold_lock, require_free
    from .store import Store

    find = Store.open if resume else Store.new
    require_free(out)
    find(out)
    from .configuration import require_same_plan
    from .prepared_plan import PreparedPlan

    quiet()
    prepared = PreparedPlan.of(plan, registry)
    with hold_lock(out):
        store = find(out)
        store.recover()
        if resume:
            require_same_plan(out, store.rows("runs")[0], prepared)
        interrupted = _run(prepared, store)
    from .results import Results

    try:
        return Results.read(out), interrupted
    except ToolkitError:
        return None, interrupted


def _run(prepared: PreparedPlan, store: Store) -> bool:
    """Run with a progress bar; whether it was stopped with Ctrl-C."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from toolkit.terminal import make_console

    from .runner import Runner

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = make_console(stderr=True)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total or None, description=what)

        try:
            Runner(prepared, store, progress).run()
        except KeyboardInterrupt:
            return True
    return False


def leave(results: Results | None, interrupted: bool) -> None:
    """Exit with 130 after Ctrl-C, and with 1 when an output diverged or has another law."""
    if interrupted:
        raise SystemExit(INTERRUPTED)
    if results is not None and (results.divergent or results.off_law):
        raise SystemExit(1)


@click.command()
@click.argument("folder", type=FILE)
@click.argument("other", type=FILE, required=False)
@options.out(help="Folder of the page and its figures (FOLDER/report).")
def report(folder: Path, other: Path | None, out: Path | None) -> None:
    """Write one HTML page with figures of the results in FOLDER; it needs no network.

    With OTHER, compare two folders instead, before and after a change, in the terminal.
    """
    from .results import Results

    if other is not None:
        if out is not None:
            raise ToolkitError("--out is for the page of one folder: leave it out to compare two")
        from toolkit.terminal import make_console

        from .comparison import show

        show(Results.read(folder), Results.read(other), make_console())
        return
    require_extra("toolkit report", "plots", "jinja2", "matplotlib")
    from .report import write

    with show_progress():
        page = write(Results.read(folder), out or folder / "report", folder)
    click.echo(f"wrote {page} and {len(list(page.parent.glob('*.png')))} figures beside it")
