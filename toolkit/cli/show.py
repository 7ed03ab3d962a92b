"""`toolkit show`: pictures of a recorded run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli import options
from toolkit.errors import ToolkitError
from toolkit.extras import require_extra

if TYPE_CHECKING:
    from toolkit.show.recording import RecordedRequest, RecordedStep


@click.command()
@click.argument("results", type=options.FILE)
@click.option(
    "--request",
    "numbers",
    multiple=True,
    type=options.Whole(min=0),
    metavar="N",
    help="Only this request; for --html it may be repeated.",
)
@click.option("--step", type=options.Whole(min=0), metavar="K", help="Only this step.")
@click.option("--html", type=options.FILE, metavar="FILE", help="Write a page with every step.")
@click.option("--svg", type=options.FILE, metavar="FILE", help="Draw one step as SVG.")
@click.option("--png", type=options.FILE, metavar="FILE", help="Draw one step as PNG.")
@click.option("--dot", type=options.FILE, metavar="FILE", help="Write one step for Graphviz.")
def show(
    results: Path,
    numbers: tuple[int, ...],
    step: int | None,
    html: Path | None,
    svg: Path | None,
    png: Path | None,
    dot: Path | None,
) -> None:
    """Show the trees that were recorded in the folder RESULTS.

    Record them with `toolkit run --record nodes --out RESULTS`, or with `toolkit bench --record
    nodes`. Without --html, --svg, --png or --dot one steps through the trees by keys, or, where
    stdout is no terminal, they are written as text.
    """
    for file in filter(None, (html, svg, png, dot)):
        options.require_writable(file)
    if png is not None:
        require_extra("--png", "show", "matplotlib")
    from toolkit.show.recording import choose_request, read_recording

    requests = read_recording(results)
    if numbers:
        requests = [choose_request(requests, number) for number in dict.fromkeys(numbers)]
    if html is not None:
        from toolkit.show.page import draw_page

        _write(html, draw_page(requests))
    if svg is not None:
        from toolkit.show.picture import draw_svg

        _write(svg, draw_svg(*_one(requests, step)))
    if png is not None:
        from toolkit.show.bitmap import draw_png

        _write(png, draw_png(*_one(requests, step)))
    if dot is not None:
        from toolkit.show.picture import draw_dot

        _write(dot, draw_dot(_one(requests, step)[1]))
    if html is svg is png is dot is None:
        _show_in_terminal(requests, step)


def _one(
    requests: list[RecordedRequest], number: int | None
) -> tuple[RecordedRequest, RecordedStep]:
    """The one step to draw. Raises `ToolkitError` when it is not said which."""
    if number is None:
        raise ToolkitError("a picture shows one step: say which with --step K, and --request N")
    return requests[0], requests[0].step(number)


def _show_in_terminal(requests: list[RecordedRequest], number: int | None) -> None:
    """Step through the requests by keys; where there is no terminal, write every step as text."""
    if number is not None:
        requests[0].step(number)
    if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        require_extra("stepping through trees by keys", "show", "textual")
        from toolkit.show.browse import browse

        browse(requests, number or 0)
        return
    from rich.console import Console

    from toolkit.show.terminal import draw_legend, draw_step

    console = Console(highlight=False)
    console.print(draw_legend())
    for request in requests:
        console.print(f"\n{request.title}\n{request.choices}", markup=False, soft_wrap=True)
        for step in request.steps if number is None else [request.step(number)]:
            console.print(draw_step(step, console.width), "", sep="\n", soft_wrap=True)


def _write(file: Path, content: str | bytes) -> None:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    click.echo(f"wrote {file}")
