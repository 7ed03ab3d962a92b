"""`toolkit chat`: talk with a model in several turns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import catch_next_interrupt, interrupt_noted, options
from toolkit.errors import ToolkitError
from toolkit.progress import show_progress

if TYPE_CHECKING:
    from toolkit import Chat


@click.command()
@options.target()
@options.strategies()
@options.sampling()
@options.seed()
@options.max_new_tokens(type=options.Whole(min=1), default=512)
@options.system()
@options.template_args()
@options.stop()
@options.models()
@options.plugin()
def chat(
    seed: int,
    max_new_tokens: int,
    system: str | None,
    template_args: tuple[tuple[str, Any], ...],
    stop: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Talk with a model: type a line, read the answer, go on.

    The model gets the whole conversation in its chat template, and keeps what it has read. Ctrl-C ends
    an answer; at the prompt, it and Ctrl-D end the conversation. Each piped line is a turn.
    """
    from toolkit import Chat

    with show_progress():
        pipeline = options.make_pipeline(**chosen)
        talk = Chat(pipeline, system, dict(template_args))
        pipeline.encode([*talk.messages, {"role": "user", "content": "?"}], talk.template_args)
        pipeline.load()
    for text in _lines():
        try:
            _answer(talk, text, max_new_tokens=max_new_tokens, seed=seed, stop=stop)
        except ToolkitError as error:
            if not sys.stdin.isatty():
                raise
            click.secho(f"Error: {error}", err=True)


def _lines() -> Iterator[str]:
    """What the user says, line by line, without empty lines."""
    asks = sys.stdin is not None and sys.stdin.isatty()
    if asks:
        with suppress(ImportError):
            import readline  # noqa: F401 gives `input` its keys for editing
    while True:
        try:
            line = input("> " if asks else "")
        except (EOFError, KeyboardInterrupt) as end:
            if asks:
                click.echo()  # the shell's prompt gets a line of its own
            if isinstance(end, EOFError):
                return
            raise
        if line.strip():
            yield line


def _answer(talk: Chat, text: str, **request: Any) -> None:
    """Print an answer as it is committed, until a Ctrl-C, and its figures.

    While the prompt is read, a Ctrl-C ends the answer at once. Later ones end it after a step, so that
    the next turn has the KV.
    """
    stream = talk.ask(text, **request)
    pieces = iter(stream)
    try:
        click.echo(next(pieces), nl=False)
        with interrupt_noted() as interrupted:
            for piece in pieces:
                click.echo(piece, nl=False)
                if interrupted.is_set():
                    break
    except KeyboardInterrupt:
        catch_next_interrupt()
    generation = stream.result
    kept = f"{stream.kept} of {len(generation.prompt_ids)} prompt tokens kept"
    click.secho(f"\n[{generation.line}; {kept}]\n", dim=True)
