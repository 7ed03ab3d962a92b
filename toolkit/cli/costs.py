"""`toolkit costs`: measure the cost of passes on this machine, cache it for shapers, show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import options
from toolkit.errors import ToolkitError
from toolkit.extras import require_extra
from toolkit.progress import show_progress

if TYPE_CHECKING:
    from toolkit import Costs, Pipeline

PICTURES = (".pdf", ".png", ".svg")


@click.command()
@options.target()
@options.drafter()
@options.kv()
@options.draft_kv()
@options.models()
@options.plugin()
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the curves: a .png, .svg or .pdf file."
)
def costs(plot: Path | None, **chosen: Any) -> None:
    """Measure the cost of a target pass and of a draft level on this machine.

    The result is cached. Shapers that plan use it in every later run with the same models, strategies
    and number of threads; without it, the first such run measures. What a busy machine shows is not
    cached.
    """
    if plot is not None:
        _require_drawable(plot)
    with show_progress():
        pipeline = options.make_pipeline(**chosen)
        measured = pipeline.costs(fresh=True)
    _show(measured, pipeline)
    if plot is not None:
        _draw(measured, pipeline, plot)
        click.echo(f"drawn in {plot}")


def _require_drawable(plot: Path) -> None:
    """Raise `ToolkitError` when no figure can be written, before anything is measured."""
    if plot.suffix not in PICTURES:
        raise ToolkitError(f"cannot draw {plot}: its name must end in {', '.join(PICTURES)}")
    options.require_writable(plot)
    require_extra("--plot", "plots", "matplotlib")


def _show(costs: Costs, pipeline: Pipeline) -> None:
    """Print two tables; the column × is the cost relative to that of a single row."""
    from rich.table import Table

    from toolkit.terminal import make_console

    console = make_console()
    short, long = costs.contexts
    for title, name, sizes, times in (
        (f"a pass of {pipeline.target}", "nodes", costs.rows, costs.target),
        (f"a level of {pipeline.drafter}", "frontier", costs.widths, costs.draft),
    ):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column(name, justify="right")
        for length in (short, long):
            table.add_column(f"ms at {length} tokens", justify="right")
            table.add_column("×", justify="right", style="dim")
        for index, size in enumerate(sizes):
            cells = [(f"{row[index]:.2f}", f"{row[index] / row[0]:.2f}") for row in times]
            table.add_row(str(size), *(cell for pair in cells for cell in pair))
        console.print(table)
        console.print()


def _draw(costs: Costs, pipeline: Pipeline, plot: Path) -> None:
    """Draw two curves over the number of nodes and two over the width of the frontier."""
    from toolkit.runtime.machine.cpu import cpu_model
    from toolkit.theme import LIGHT

    figure, panels = LIGHT.figure(3.6, columns=2)
    for axes, title, label, sizes, times in (
        (panels[0], "ms of a target pass", "nodes", costs.rows, costs.target),
        (panels[1], "ms of a draft level", "frontier nodes", costs.widths, costs.draft),
    ):
        for index, (length, row) in enumerate(zip(costs.contexts, times, strict=True)):
            colour = LIGHT.colour(index)
            axes.plot(sizes, row, "o-", markersize=4, color=colour, label=f"at {length} tokens")
        LIGHT.add_title(axes, title)
        axes.set(xlabel=label, ylim=(0, None))
    LIGHT.add_legend(figure, panels[0])
    LIGHT.add_note(figure, f"{pipeline.target}, {pipeline.drafter}, {cpu_model()}")
    figure.savefig(plot, dpi=160)
