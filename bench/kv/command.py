"""`toolkit kv-quality`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit import ToolkitError

if TYPE_CHECKING:
    from toolkit import Registry

    from .quality import Quality

FILE = click.Path(path_type=Path)
OURS = "built-in"


class Budgets(click.ParamType[list[int]]):
    """Budgets joined by commas."""

    name = "budgets"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            found = value if isinstance(value, list) else [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not whole numbers joined by commas, as 64,128", param, ctx)
        if min(found) < 1:
            self.fail(f"{value!r}: a budget is at least 1", param, ctx)
        return found


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
    type=Budgets(),
    default="32,64,128",
    show_default=True,
    help="For policies that name no budget of their own.",
)
@click.option("--text", type=FILE, help="Held-out text, UTF-8; a story that ships, when left out.")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=256, show_default=True, metavar="N"
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens scored per excerpt.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Excerpts of the text, from its beginning.",
)
@click.option(
    "--decode",
    "decoded",
    type=click.IntRange(min=2),
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
    if out is not None and out.exists():
        raise ToolkitError(f"--out {out} is there already: name a new folder")
    from toolkit import Pool, Registry, quiet

    from .quality import Plan, measured

    quiet()
    registry = Registry.installed()
    for file in plugins:
        registry.add_file(file)
    pool = Pool(device=device, dtype=dtype)
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
    rows = _shown(measured(plan, chosen, pool, registry), len(chosen))
    if out is not None:
        _write(rows, out)


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
    fitting = []
    for choice in specs(registry.names("kv"), budgets, registry):
        try:
            Pipeline(target, drafter="none", kv=choice, pool=pool, registry=registry)
        except ToolkitError as error:
            click.echo(f"left out: {error}", err=True)
        else:
            fitting.append(choice)
    return fitting


def _shown(rows: Any, count: int) -> list[Quality]:
    """The rows as a table that grows line by line on a terminal."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from .quality import line_of

    console, found = Console(highlight=False), []
    table = Table(box=None, pad_edge=False)
    for title in ("policy", "budget", "perplexity", "agreement", "KV MiB", "peak", "tokens/s"):
        table.add_column(title, justify="left" if title == "policy" else "right", overflow="fold")
    quiet = Console(stderr=True)
    for row in track(rows, "measuring", total=count, console=quiet, transient=True):
        found.append(row)
        table.add_row(
            line_of(row.kv),
            str(row.budget or "–"),
            f"{row.perplexity:.2f}",
            f"{100 * row.agreement:.1f} %",
            f"{row.kv_bytes / 2**20:.2f}",
            f"{row.kv_peak_bytes / 2**20:.2f}",
            f"{row.tokens_per_s:.1f}",
        )
    console.print(table)
    first = found[0]
    console.print(
        f"\n{first.target}, {first.text}: {first.scored_tokens} tokens scored after prompts of "
        f"{first.prompt_tokens}; agreement is with full. tokens/s is one AR run, no comparison."
    )
    return found


def _write(rows: list[Quality], out: Path) -> None:
    import attrs

    from toolkit import schema, write_part

    from .plot import draw
    from .quality import Quality

    out.mkdir(parents=True)
    write_part(out / "kv_quality.parquet", [attrs.asdict(row) for row in rows], schema(Quality))
    draw(rows, out / "kv_quality.png")
    click.echo(f"written to {out}")
