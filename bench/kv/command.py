"""`toolkit kv-quality` and `toolkit kv-context`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from toolkit import ToolkitError

from ..options import FILE, Counts, Whole

if TYPE_CHECKING:
    from toolkit import Pool, Registry

    from .context import Context
    from .quality import Quality

OURS = "the built-in story"


@click.command("kv-quality")
@click.option("--target", metavar="MODEL", help="Alias, folder or hub id; the shipped model else.")
@click.option(
    "--kv",
    "policies",
    multiple=True,
    metavar="SPEC",
    help="Policy to measure; may be repeated. All that can work on the target, when left out.",
)
@click.option(
    "--budgets",
    type=Counts(),
    default="64,128,256",
    show_default=True,
    help="For policies that name no budget of their own.",
)
@click.option("--text", type=FILE, help="Held-out text, UTF-8; a story that ships, when left out.")
@click.option("--prompt-tokens", type=Whole(min=1), default=256, show_default=True, metavar="N")
@click.option(
    "--tokens",
    type=Whole(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens scored per excerpt.",
)
@click.option(
    "--samples",
    type=Whole(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Excerpts of the text, from its beginning.",
)
@click.option(
    "--decode",
    "decoded",
    type=Whole(min=2),
    default=64,
    show_default=True,
    metavar="N",
    help="Tokens decoded by AR for tokens/s.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16", "fp64"]), default="auto"
)
@click.option("--out", type=FILE, help="New folder for kv_quality.parquet and kv_quality.png.")
@click.option(
    "--plugin", "plugins", multiple=True, type=FILE, help="Python file with policies of your own."
)
def kv_quality(
    target: str | None,
    policies: tuple[str, ...],
    budgets: list[int],
    text: Path | None,
    plugins: tuple[Path, ...],
    device: str,
    dtype: str,
    out: Path | None,
    **sizes: int,
) -> None:
    """What evicting costs: perplexity, agreement with the full cache, memory, tokens/s.

    Eviction makes the target another function; decoding stays exact to that function, and this says
    how far it is from the model's own. One row per policy and budget.
    """
    _checked(out)
    from .quality import Plan, measured

    pool, registry = _machine(device, dtype, plugins)
    plan = Plan(
        target=target,
        text=_text(text),
        name=text.name if text else OURS,
        prompt=sizes["prompt_tokens"],
        tokens=sizes["tokens"],
        samples=sizes["samples"],
        decoded=sizes["decoded"],
    )
    chosen = _chosen(plan.target, policies, budgets, pool, registry)
    rows: list[Quality] = []
    for row in _tracked(measured(plan, chosen, pool, registry), len(chosen)):
        rows.append(row)
        _keep(rows, out, "kv_quality")
    _show_quality(rows)
    if out is not None:
        from .plot import quality

        with _writing(out):
            quality(rows, out / "kv_quality.png")
        click.echo(f"written to {out}")


@click.command("kv-context")
@click.option("--target", metavar="MODEL", help="Alias, folder or hub id; the shipped model else.")
@click.option(
    "--kv",
    "policies",
    multiple=True,
    metavar="SPEC",
    default=("streaming", "h2o"),
    show_default=True,
    help="Policy that AR decodes under; may be repeated. AR under full is always there.",
)
@click.option(
    "--drafter",
    "drafters",
    multiple=True,
    metavar="SPEC",
    default=("self:kv=[streaming:budget=128]",),
    show_default=True,
    help="What drafts under the full cache; may be repeated.",
)
@click.option(
    "--contexts",
    type=Counts(),
    default="256,512,1024,1792",
    show_default=True,
    metavar="N,…",
    help="Prompt lengths in tokens; the text is repeated to reach them.",
)
@click.option("--new-tokens", type=Whole(min=2), default=64, show_default=True, metavar="N")
@click.option("--rounds", type=Whole(min=1), default=3, show_default=True, metavar="N")
@click.option(
    "--text", type=FILE, help="UTF-8 text for prompts; a story that ships, when left out."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16", "fp64"]), default="auto"
)
@click.option("--out", type=FILE, help="New folder for kv_context.parquet and kv_context.png.")
@click.option(
    "--plugin", "plugins", multiple=True, type=FILE, help="Python file with strategies of your own."
)
def kv_context(
    target: str | None,
    policies: tuple[str, ...],
    drafters: tuple[str, ...],
    contexts: list[int],
    new_tokens: int,
    rounds: int,
    text: Path | None,
    plugins: tuple[Path, ...],
    device: str,
    dtype: str,
    out: Path | None,
) -> None:
    """Memory and tokens/s over context length: AR under KV policies, and the target drafting for
    itself under one.

    Every arm runs on the same prompts in one process, in rotated order; medians over rounds.
    """
    _checked(out)
    from .context import arms, measured

    pool, registry = _machine(device, dtype, plugins)
    chosen = arms(policies, drafters, registry)
    found = measured(target, chosen, contexts, _text(text), new_tokens, rounds, pool, registry)
    rows: list[Context] = []
    for row in _tracked(found, len(chosen) * len(contexts)):
        rows.append(row)
        _keep(rows, out, "kv_context")
    _show_context(rows)
    if out is not None:
        from .plot import context

        with _writing(out):
            context(rows, out / "kv_context.png")
        click.echo(f"written to {out}")


def _checked(out: Path | None) -> None:
    """Raise `ToolkitError` now rather than after measuring."""
    if out is not None and out.exists():
        raise ToolkitError(f"--out {out} is there already: name a new folder")
    if out is not None and not out.absolute().parent.is_dir():
        raise ToolkitError(f"no folder {out.parent} for --out {out}: make it first")
    if out is not None:
        with _writing(out), TemporaryFile(dir=out.absolute().parent):
            pass


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say in one line what cannot be written."""
    try:
        yield
    except OSError as error:
        raise ToolkitError(
            f"--out {out} cannot be written ({error.strerror or error}): name another folder"
        ) from error


def _machine(device: str, dtype: str, plugins: tuple[Path, ...]) -> tuple[Pool, Registry]:
    from toolkit import Pool, Registry, quiet

    quiet()
    registry = Registry.installed()
    for file in plugins:
        registry.add_file(file)
    return Pool(device=device, dtype=dtype), registry


def _text(file: Path | None) -> str:
    if file is None:
        return files("toolkit.bench.kv").joinpath("text.txt").read_text("utf-8")
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolkitError(f"text {file} cannot be read as UTF-8: {error}") from error


def _chosen(
    target: str | None, policies: tuple[str, ...], budgets: list[int], pool: Any, registry: Registry
) -> list[Any]:
    """The policies asked for, or every one that the target can work with."""
    from toolkit import Pipeline

    from .quality import specs

    if policies:
        return specs(policies, budgets, registry)
    fitting = specs([], budgets, registry)
    for policy, budget in itertools.product(registry.names("kv"), budgets):
        try:
            for choice in specs([policy], [budget], registry)[1:]:
                Pipeline(target, drafter="none", kv=choice, pool=pool, registry=registry)
                fitting.append(choice)
        except ToolkitError as error:
            click.echo(f"left out: {error}", err=True)
    return list(dict.fromkeys(fitting))


def _tracked(rows: Iterable[Any], count: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(rows, "measuring", total=count, console=console, transient=True)


def _show_quality(rows: list[Quality]) -> None:
    from .quality import line_of

    cells = [
        (
            line_of(row.kv),
            str(row.budget or "–"),
            f"{row.perplexity:.2f}",
            f"{100 * row.agreement:.1f} %",
            f"{row.kv_bytes / 2**20:.2f}",
            f"{row.kv_peak_bytes / 2**20:.2f}",
            f"{row.tokens_per_s:.1f}",
        )
        for row in rows
    ]
    titles = ("policy", "budget", "perplexity", "agreement", "KV MiB", "peak", "tokens/s")
    first = rows[0]
    _print(
        titles,
        cells,
        f"{first.target}, {first.text}: {first.scored_tokens} tokens scored after prompts of "
        f"{first.prompt_tokens}; agreement is with full. tokens/s is one AR run, no comparison.",
    )


def _show_context(rows: list[Context]) -> None:
    cells = [
        (
            f"{row.prompt_tokens}",
            row.drafter,
            row.kv,
            f"{row.tokens_per_s:.1f}",
            f"{row.against_ar:.2f}",
            f"{row.kv_bytes / 2**20:.2f}",
            f"{row.kv_peak_bytes / 2**20:.2f}",
        )
        for row in rows
    ]
    titles = ("context", "drafter", "kv", "tokens/s", "× AR", "KV MiB", "peak")
    first = rows[0]
    _print(
        titles,
        cells,
        f"{first.target}, {first.new_tokens} tokens decoded, medians, rounds: {first.rounds}; "
        f"× AR is against AR under full on the same prompt. Machine: {first.machine}.",
    )


def _print(titles: tuple[str, ...], cells: Sequence[tuple[str, ...]], caption: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in titles:
        words = title in ("policy", "drafter", "kv")
        table.add_column(title, justify="left" if words else "right", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))  # brackets in a spec are no markup
    console = Console(highlight=False)
    console.print(table)
    console.print(Text("\n" + caption))


def _keep(rows: Sequence[Any], out: Path | None, name: str) -> None:
    """Write what there is so far: an interrupted run keeps what it measured."""
    import attrs

    from toolkit import schema, write_part

    if out is not None:
        part = [attrs.asdict(row) for row in rows]
        with _writing(out):
            out.mkdir(exist_ok=True)
            write_part(out / f"{name}.parquet", part, schema(type(rows[0])))
