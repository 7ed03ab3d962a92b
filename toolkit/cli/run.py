"""`toolkit run`: decode prompts, print the text as it is committed, and compare it with AR."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from attrs import asdict

from toolkit.cli import INTERRUPTED, options
from toolkit.cli.explain import explain_choices
from toolkit.cli.prompts import Formatting, read_prompts, show_prompt
from toolkit.errors import ToolkitError
from toolkit.progress import show_progress, working

if TYPE_CHECKING:
    from toolkit import Generation, Pipeline
    from toolkit.records import Out


@click.command()
@click.argument("prompt", required=False)
@options.target()
@options.strategies()
@options.sampling()
@options.seed()
@options.limits()
@options.max_new_tokens(type=options.Whole(min=1), default=128)
@options.prompt_file()
@click.option(
    "--field",
    metavar="NAME",
    help="Field of a .jsonl file that holds the prompt, a text or a list of messages.  [default: "
    "prompt, else messages]",
)
@click.option(
    "--chat/--no-chat",
    default=None,
    help="Send the prompt as a message in the model's chat template, or as it is; by default as a "
    "message to instruct models.",
)
@options.system()
@options.template_args()
@options.stop()
@options.models()
@click.option(
    "--verify", "verifying", is_flag=True, help="Also run AR, and compare token by token."
)
@click.option(
    "--stats",
    "explaining",
    is_flag=True,
    help="Show acceptance by position, accepted lengths, and the cost of drafting.",
)
@click.option(
    "--watch", "watching", is_flag=True, help="Draw the tree of each step while decoding."
)
@click.option(
    "--explain", is_flag=True, help="Say which strategies are chosen and why, and decode nothing."
)
@options.as_json(help="One JSON object per request on stdout, text on stderr.")
@options.out(help="Results as Parquet: one .parquet file, or a new folder with every table.")
@options.record(
    multiple=False,
    type=click.Choice(["nodes"]),
    help="Also write every node, with its probability under drafter and target, to the --out folder.",
)
@options.plugin()
def run(
    prompt: str | None,
    prompt_file: Path | None,
    field: str | None,
    chat: bool | None,
    system: str | None,
    template_args: tuple[tuple[str, Any], ...],
    stop: tuple[str, ...],
    max_new_tokens: int,
    seed: int,
    verifying: bool,
    explaining: bool,
    watching: bool,
    explain: bool,
    as_json: bool,
    out: Path | None,
    record: str | None,
    **chosen: Any,
) -> None:
    """Decode PROMPT by speculation and print the text as it is committed.

    Without PROMPT, the prompt is read from --prompt-file or piped stdin; else a built-in one is used.
    A SPEC is a strategy's name with options, as in adaptive:nodes=32,max_depth=6. `toolkit plugins
    list` lists the strategies.
    """
    if watching and as_json:
        raise ToolkitError("--watch draws on stdout, where --json writes: give one of them")
    if explain:
        click.echo(explain_choices(options.make_pipeline(**chosen)))
        return
    prompts = read_prompts(prompt, prompt_file, field)
    formatting = Formatting(chat, system, dict(template_args))
    request = {
        "max_new_tokens": max_new_tokens,
        "stop": stop,
        "seed": seed,
        "record_nodes": watching or record is not None,
    }
    with nullcontext() if as_json else show_progress():
        pipeline, place = _prepare(out, record, verifying, chosen)
        encoded = formatting.encode_all(prompts, pipeline)
    end = "\n" if formatting.uses_template(pipeline) else ""
    finished: list[Generation] = []
    interrupted = False
    try:
        for text, ids in zip(prompts, encoded, strict=True):
            shown = show_prompt(text) + end
            generation = _decode(pipeline, ids, request, shown, watching, as_json)
            finished.append(generation)
            try:
                if verifying and generation.stop_reason != "interrupted":
                    generation = finished[-1] = _compare(pipeline, generation, as_json)
            finally:
                if as_json:
                    click.echo(json.dumps(summary(generation, pipeline), ensure_ascii=False))
                elif len(prompts) > 1:
                    click.secho(f"[{len(finished)}/{len(prompts)}] {generation.line}\n", dim=True)
            if interrupted := generation.stop_reason == "interrupted":
                break
    except KeyboardInterrupt:
        if not finished:
            raise
        interrupted = True
    finally:
        if place is not None and finished:
            from toolkit.records import run_record

            place.write(run_record(pipeline), finished)
    if not as_json:
        from toolkit.cli.panel import show

        show(finished, pipeline, formatting.describe(pipeline), explaining)
    if interrupted:
        raise SystemExit(INTERRUPTED)
    if any(generation.verdict == "divergent" for generation in finished):
        raise SystemExit(1)


def _decode(
    pipeline: Pipeline,
    ids: list[int],
    request: dict[str, Any],
    shown: str,
    watching: bool,
    as_json: bool,
) -> Generation:
    """Decode one prompt and write its text as it comes."""
    with nullcontext() if as_json else show_progress():
        decoding = pipeline.stream(ids, **request)
        pieces = iter(decoding)
        texts: Iterable[str] = chain([next(pieces)], pieces)
    if watching:
        from toolkit.cli.watch import Watch

        Watch.of(decoding).run(texts)
        texts = [decoding.result.text]
    _write(shown, texts, sys.stderr if as_json else sys.stdout)
    return decoding.result


def _compare(pipeline: Pipeline, generation: Generation, as_json: bool) -> Generation:
    """Compare a generation with AR. Its own request is over, so that AR's finds its memory free."""
    from toolkit import verify

    with (
        nullcontext() if as_json else show_progress(),
        working("Decoding once more without drafts, to compare"),
    ):
        return generation.with_verification(verify(pipeline, generation))


def _prepare(
    out: Path | None, record: str | None, verifying: bool, chosen: dict[str, Any]
) -> tuple[Pipeline, Out | None]:
    """Check everything that needs no weights: the output, then plugins, specs and models."""
    place = None
    if record and (out is None or out.suffix == ".parquet"):
        raise ToolkitError(
            f"--record {record} needs a folder to write to, because one .parquet file holds requests "
            f"alone: add --out FOLDER"
        )
    if out is not None:
        from toolkit.records import Out

        place = Out.at(out)
    pipeline = options.make_pipeline(**chosen)
    if verifying:
        from toolkit.exactness import require_comparable

        require_comparable(pipeline)
    return pipeline, place


def _write(prompt: str, pieces: Iterable[str], stream: TextIO) -> None:
    """Write the pieces as they come, until a Ctrl-C. On a terminal, write the prompt first."""
    if stream.isatty():
        click.secho(prompt, nl=False, dim=True, file=stream)
    with suppress(KeyboardInterrupt):
        for piece in pieces:
            click.echo(piece, nl=False, file=stream)
    click.echo(file=stream)


def summary(generation: Generation, pipeline: Pipeline) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {
        "text": generation.text,
        "token_ids": generation.token_ids,
        "stop_reason": generation.stop_reason,
        "tau": generation.tau,
        "steps": len(generation.steps),
        "steps_run": generation.steps_run,
        "tokens_per_s": generation.tokens_per_s,
        "ttft_ms": generation.ttft_ms,
        "verdict": generation.verdict,
        "numerics": generation.numerics,
        "specs": generation.specs,
        **asdict(generation.sampling),
        "logits_processors": pipeline.defaults.processing,
        "seed": generation.seed,
        "metrics": generation.metrics,
        "acceptance_by_position": generation.acceptance.by_position,
        "accepted_lengths": generation.acceptance.lengths,
    }
