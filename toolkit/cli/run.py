"""`toolkit run`: decode one prompt, watch it, and see the proof beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from toolkit.cli import INTERRUPTED
from toolkit.errors import ToolkitError
from toolkit.progress import show_progress, working
from toolkit.words import whole

if TYPE_CHECKING:
    from toolkit import Generation, Pipeline, Registry

BUILT_IN_PROMPT = "Once upon a time there was a little girl who"
FILE = click.Path(path_type=Path)


class Whole(click.IntRange):
    """A whole number, read strictly."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return super().convert(whole(str(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def plugin_option(command: Any) -> Any:
    """`--plugin FILE`, for every command that takes specs."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        is_eager=True,
        type=FILE,
        metavar="FILE",
        help="A Python file with strategies of your own; may be repeated.",
    )(command)


def dtype_option(command: Any) -> Any:
    """`--dtype`, for every command that loads models."""
    return click.option(
        "--dtype",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "fp64"]),
        default="auto",
        show_default=True,
        help="auto: fp32 on CPU, the checkpoint's own on CUDA.",
    )(command)


def executor_option(command: Any) -> Any:
    """`--executor`, for every command that loads models."""
    return click.option(
        "--executor",
        type=click.Choice(["auto", "module", "functional"]),
        default="auto",
        show_default=True,
        help="How a forward runs; auto: functional where the family is described.",
    )(command)


def require_writable(file: Path) -> None:
    """Raise `ToolkitError` when a file cannot be written, before the work for it is done."""
    if not file.absolute().parent.is_dir():
        raise ToolkitError(f"no folder {file.parent} for {file}: make it first")
    there = file.exists()
    try:
        file.open("ab").close()
    except OSError as error:
        raise ToolkitError(f"{file} cannot be written ({error.strerror}): name another") from error
    if not there:
        file.unlink()


@click.command()
@click.argument("prompt", required=False)
@click.option("--target", metavar="MODEL", help="Alias, folder or hub id of the model to decode.")
@click.option("--drafter", metavar="SPEC", help="Drafter, or a model that drafts.")
@click.option(
    "--shaper", metavar="SPEC", default="adaptive", show_default=True, help="Tree shaper."
)
@click.option("--verifier", metavar="SPEC", default="greedy", show_default=True, help="Verifier.")
@click.option(
    "--kv",
    metavar="SPEC",
    default="full",
    show_default=True,
    help="KV policy of the target; the output is AR's under the same policy.",
)
@click.option(
    "--draft-kv",
    metavar="SPEC",
    default="full",
    show_default=True,
    help="KV policy of the drafter's own cache; never changes the output.",
)
@click.option(
    "--max-new-tokens",
    type=Whole(min=1),
    default=128,
    show_default=True,
    help="Tokens to decode at most.",
)
@click.option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the prompt from a file; one final line break is dropped.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run.",
)
@dtype_option
@executor_option
@click.option("--verify", "verifying", is_flag=True, help="Run AR too and compare token by token.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, text on stderr.")
@click.option(
    "--out",
    type=FILE,
    help="Results as Parquet: one .parquet file, or a new folder with every table.",
)
@plugin_option
def run(
    prompt: str | None,
    prompt_file: Path | None,
    max_new_tokens: int,
    verifying: bool,
    as_json: bool,
    out: Path | None,
    plugins: tuple[Path, ...],
    device: str,
    dtype: str,
    executor: str,
    **specs: str | None,
) -> None:
    """Decode PROMPT by speculation and print the text as it is committed.

    Without PROMPT: --prompt-file, else piped stdin, else a short built-in one. `toolkit plugins list`
    names the strategies; a spec is a name with options, as in adaptive:nodes=32,max_depth=6.
    """
    text = _prompt(prompt, prompt_file)
    pool: dict[str, Any] = {"device": device, "dtype": dtype, "executor": executor}
    progress = nullcontext if as_json else show_progress
    with progress():
        pipeline, place = _prepared(plugins, pool, out, specs)
        decoding = pipeline.stream(text, max_new_tokens=max_new_tokens)
        pieces = iter(decoding)
        first = next(pieces)
    _write(text, chain([first], pieces), sys.stderr if as_json else sys.stdout)
    with progress():
        generation = decoding.result
        interrupted = generation.stop_reason == "interrupted"
        if verifying and not interrupted:
            from toolkit import verify

            with working("Decoding once more without drafts, to compare"):
                generation = generation.verified(verify(pipeline, generation))
    if place is not None:
        from toolkit.records import run_record

        place.write(run_record(pipeline), [generation])
    if as_json:
        click.echo(json.dumps(summary(generation), ensure_ascii=False))
    else:
        from toolkit.cli.panel import show

        show(generation, pipeline)
    if interrupted:
        raise SystemExit(INTERRUPTED)
    if generation.verdict == "divergent":
        raise SystemExit(1)


def _prepared(
    plugins: tuple[Path, ...], options: dict[str, Any], out: Path | None, specs: dict[str, Any]
) -> tuple[Pipeline, Any]:
    """Everything that can be refused without weights: output, plugins, specs, models."""
    place = None
    if out is not None:
        from toolkit.records import Out

        place = Out.checked(out)
    from toolkit import Pipeline, Pool
    from toolkit.runtime.models.quiet import quiet

    quiet()
    pool = Pool(**options)
    target = specs.pop("target")
    return Pipeline(target, **specs, pool=pool, registry=registry(plugins)), place


def registry(plugins: tuple[Path, ...]) -> Registry:
    """Installed plugins and the files given on the command line. Raises `PluginError`."""
    from toolkit import Registry

    found = Registry.installed()
    for file in plugins:
        found.add_file(file)
    return found


def _prompt(argument: str | None, file: Path | None) -> str:
    """The argument, else the file, else piped stdin, else the built-in prompt."""
    if argument is not None and file is not None:
        raise ToolkitError("a prompt and --prompt-file are both given: use one of them")
    if argument is not None:
        if not argument:
            raise ToolkitError("the prompt is empty: give some text, or no argument at all")
        return _text(argument.encode("utf-8", "surrogateescape"), "the prompt")
    if file is not None:
        text = _text(file.read_bytes(), f"prompt file {file}")
        if not text:
            raise ToolkitError(f"prompt file {file} is empty: put some text into it")
        return text
    if sys.stdin is None or sys.stdin.isatty():
        return BUILT_IN_PROMPT
    return _text(sys.stdin.buffer.read(), "the piped prompt") or BUILT_IN_PROMPT


def _text(data: bytes, what: str) -> str:
    """Bytes as text, without a byte order mark and one final line break. Raises `ToolkitError`."""
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ToolkitError(
            f"{what} is not UTF-8 text (byte {error.start}): convert it first"
        ) from error


def _write(prompt: str, pieces: Iterable[str], stream: TextIO) -> None:
    """Write the text as it comes, up to a Ctrl-C; on a terminal the prompt goes before it."""
    if stream.isatty():
        click.secho(prompt, nl=False, dim=True, file=stream)
    with suppress(KeyboardInterrupt):
        for piece in pieces:
            click.echo(piece, nl=False, file=stream)
    click.echo(file=stream)


def summary(generation: Generation) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "text": generation.text,
        "token_ids": generation.token_ids,
        "stop_reason": generation.stop_reason,
        "tau": generation.tau,
        "steps": len(generation.steps),
        "tokens_per_s": generation.tokens_per_s,
        "ttft_ms": generation.ttft_ms,
        "verdict": generation.verdict,
        "numerics": generation.numerics,
        "specs": generation.specs,
        "metrics": generation.metrics,
    }
