"""`toolkit bench` and `toolkit report`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit import ToolkitError
from toolkit.words import quote

from .options import FILE, Counts, Whole

if TYPE_CHECKING:
    from rich.console import Console

    from .plan import Plan
    from .results import Results

INTERRUPTED = 130


@click.group(invoke_without_command=True)
@click.option("--plan", metavar="PLAN", help="A .toml file, or the name of a plan that ships.")
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="WORDS",
    help='What to measure, as "drafter=model shaper=adaptive" or hf:assisted; may be repeated.',
)
@click.option("--target", metavar="MODEL", help="Alias, folder or hub id of the model to decode.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="SET",
    help="Name, or FILE:COLUMN; repeatable (stories).",
)
@click.option("--prompts", type=Whole(min=1), metavar="N", help="Prompts per data set (10).")
@click.option(
    "--prompt-tokens", type=Counts(), metavar="N,…", help="Cut prompts to so many tokens (256)."
)
@click.option("--max-new-tokens", type=Counts(), metavar="N,…", help="T, tokens to decode (128).")
@click.option("--warmup", type=Whole(min=1), metavar="N", help="Prompts to throw away first (2).")
@click.option("--seed", type=Whole(min=0), metavar="N", help="Of the choice of prompts (0).")
@click.option("--ignore-eos", is_flag=True, default=None, help="Decode past stop tokens.")
@click.option(
    "--record",
    multiple=True,
    type=click.Choice(["steps", "nodes"]),
    help="Keep these tables too; may be repeated.",
)
@click.option("--tune", metavar="ARM", help="Choose this arm's options on held-out prompts.")
@click.option("--grid", metavar="GRID", help='What to try, as "depth=3,5 branch=2,3".')
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run (auto).")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16", "fp64"]),
    help="Of the weights (auto).",
)
@click.option(
    "--out", type=FILE, default=Path("results"), show_default=True, help="Folder of the results."
)
@click.option("--resume", is_flag=True, help="Go on with the results in --out.")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="A Python file of your own.",
)
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Measure arms side by side: paired, interleaved, and every output compared with AR's.

    AR is always among the arms. `toolkit bench init` writes a plan to start from; options replace a
    plan's values. Ctrl-C keeps what is finished; --resume goes on.
    """
    if ctx.invoked_subcommand is None:
        _bench(options)


@bench.command()
@click.argument("file", type=FILE, default=Path("bench.toml"))
def init(file: Path) -> None:
    """Write a commented plan to FILE."""
    if file.suffix != ".toml":
        raise ToolkitError(f"{file} is no name of a plan: it must end in .toml")
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
    """The plans that ship and the data sets that have names."""
    from toolkit import Registry

    from .plan import read_protocols

    click.echo("plans:")
    for name, text in read_protocols().items():
        click.echo(f"  {name:<24}{text.splitlines()[0].removeprefix('# ')}")
    click.echo("data sets:")
    for name, dataset in sorted(Registry.installed().datasets.items()):
        click.echo(f"  {name:<24}{dataset.help}")


def _bench(options: dict[str, Any]) -> None:
    """Everything that can be refused is refused before weights load; then run and show."""
    from rich.console import Console

    out, resume, plugins = (options.pop(key) for key in ("out", "resume", "plugins"))
    plan = _plan(options, out, resume)

    from toolkit import quiet

    from .lock import locked, require_free
    from .store import Store

    find = Store.open if resume else Store.new
    require_free(out)
    find(out)
    registry = _registry(plugins)

    from .configuration import require_same_plan
    from .prepared_plan import PreparedPlan

    quiet()
    prepared = PreparedPlan.of(plan, registry)
    with locked(out):
        store = find(out)
        store.recover()
        if resume:
            require_same_plan(out, store.rows("runs")[0], prepared)
        interrupted = _run(prepared, store, Console(stderr=True, highlight=False))
    _finish(out, interrupted, Console(highlight=False))


def _registry(plugins: tuple[Path, ...]) -> Any:
    from toolkit import Registry

    found = Registry.installed()
    for file in plugins:
        found.add_file(file)
    return found


def _plan(options: dict[str, Any], out: Path, resume: bool) -> Plan:
    """The plan: a file's or one that ships, a resumed folder's, or made of options."""
    from .plan import Plan

    name, tune, grid = (options.pop(key) for key in ("plan", "tune", "grid"))
    changes = {key: _list(value) for key, value in options.items() if value not in (None, ())}
    if bool(tune) != bool(grid):
        raise ToolkitError('--tune ARM and --grid "option=value,value" go together')
    if tune:
        changes["tune"] = [{"arm": tune, "grid": parsed_grid(grid)}]
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
    return list(value) if isinstance(value, tuple) else value


def parsed_grid(text: str) -> dict[str, list[str]]:
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


def _run(prepared: Any, store: Any, console: Console) -> bool:
    """Run with a progress bar; whether it was interrupted."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from .runner import Runner

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total or None, description=what)

        try:
            Runner(prepared, store, progress).run()
        except KeyboardInterrupt:
            return True
    return False


def _finish(out: Path, interrupted: bool, console: Console) -> None:
    """The table, and the exit status: 130 interrupted, 1 divergent."""
    from rich.text import Text

    from .table import show

    results = _known(out)
    if results is not None:
        show(results, console)
        said = f"{len(results.requests)} requests in {out}; see them with: toolkit report {out}"
        console.print(Text(said))
    if interrupted:
        click.echo(
            f"stopped: what was finished is kept; go on with: toolkit bench --resume --out {out}",
            err=True,
        )
        raise SystemExit(INTERRUPTED)
    if results is not None and results.divergent:
        raise SystemExit(1)


def _known(out: Path) -> Results | None:
    """Results, where there are any yet."""
    from .results import Results

    try:
        return Results.read(out)
    except ToolkitError:
        return None


@click.command()
@click.argument("folder", type=FILE)
@click.option("--out", type=FILE, help="Where page and figures go; FOLDER/report without it.")
def report(folder: Path, out: Path | None) -> None:
    """One HTML page of the results in FOLDER, with figures, which needs no network."""
    from .report import write
    from .results import Results

    page = write(Results.read(folder), out or folder / "report")
    click.echo(f"wrote {page} and {len(list(page.parent.glob('*.png')))} figures beside it")
