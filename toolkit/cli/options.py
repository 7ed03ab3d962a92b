"""The options that several commands share, each defined once, and what commands make of their values.

Plugins' commands can use them, too. Calling an option gives a decorator. The call may name the
parameter and change settings: `@options.kv("policies", multiple=True, default=())`. Importing this
module loads neither torch nor plugins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.errors import ToolkitError
from toolkit.words import parse_real, parse_whole, quote

if TYPE_CHECKING:
    from toolkit import Pipeline, Pool, Registry

FILE = click.Path(path_type=Path)


class Whole(click.IntRange):
    """A whole number in decimal digits."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return super().convert(parse_whole(str(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Real(click.ParamType[float]):
    """A number in decimal digits."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return value if isinstance(value, float) else parse_real(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Counts(click.ParamType[list[int]]):
    """Positive whole numbers joined by commas."""

    name = "counts"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            parts = value if isinstance(value, list) else map(parse_whole, value.split(","))
            found = list(parts)
        except ValueError:
            self.fail(
                f"{quote(value)} is not whole numbers joined by commas, as 64,128", param, ctx
            )
        if min(found) < 1:
            self.fail(f"{quote(value)}: each is at least 1", param, ctx)
        return found


class Device(click.Choice[str]):
    """A device by name, or one of several GPUs: cuda:1."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        name, _, number = str(value).partition(":")
        if value not in self.choices and not (name == "cuda" and number.isdecimal()):
            known = ", ".join(self.choices)
            self.fail(
                f"no device {quote(value)}: there are {known}, and cuda:1 for the second GPU",
                param,
                ctx,
            )
        return str(value)


class TemplateArg(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE; a value that is JSON (true, 3, "x") is read as such, any other is a text."""

    name = "template-arg"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{quote(value)} is not NAME=VALUE, as in enable_thinking=false", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


def _option(*names: str, **settings: Any) -> Callable[..., Any]:
    """Define an option: a function that takes changes and returns click's decorator."""

    def option(*parameter: str, **changes: Any) -> Any:
        return click.option(*names, *parameter, **{"show_default": True, **settings, **changes})

    return option


target = _option(
    "--target", metavar="MODEL", help="Alias, folder or hub id of the model to decode."
)
drafter = _option("--drafter", metavar="SPEC", help="Drafter, or a model that drafts.")
shaper = _option(
    "--shaper",
    metavar="SPEC",
    help="Tree shaper; by default adaptive, with stop=0.3 where a model drafts for sampler-match, and "
    "growmap for verifiers that need every drawn candidate, and on CUDA with a draft model and "
    "verifier greedy.",
)
verifier = _option(
    "--verifier",
    metavar="SPEC",
    help="Verifier; by default greedy, and sampler-match at temperatures above 0.",
)
kv = _option(
    "--kv",
    metavar="SPEC",
    default="full",
    help="KV policy of the target; the output is AR's under the same policy.",
)
draft_kv = _option(
    "--draft-kv",
    metavar="SPEC",
    default="full",
    help="KV policy of the drafter's own cache; never changes the output.",
)
stop = _option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help="End where the output contains TEXT, which is left out; may be repeated.",
)
system = _option(
    "--system", metavar="TEXT", help="System message, before the first message of the user."
)
template_args = _option(
    "--template-arg",
    "template_args",
    multiple=True,
    type=TemplateArg(),
    metavar="NAME=VALUE",
    help="Variable of the chat template, as in enable_thinking=false; may be repeated.",
)
temperature = _option(
    "--temperature",
    type=Real(),
    metavar="T",
    help="Draw tokens by softmax(logits/T); 0: the most likely one. By default, this and the next "
    "three are as the model's generation config says; where it says nothing, 0.",
)
top_k = _option(
    "--top-k",
    type=Whole(min=0),
    metavar="K",
    help="Draw among the K most likely tokens; 0: all.",
)
top_p = _option(
    "--top-p",
    type=Real(),
    metavar="P",
    help="Draw among the most likely tokens that together have probability P.",
)
min_p = _option(
    "--min-p",
    type=Real(),
    metavar="P",
    help="Draw among tokens with at least P times the highest probability.",
)
max_nodes_per_level = _option(
    "--max-nodes-per-level",
    type=Whole(min=1),
    metavar="N",
    help="At most N nodes of each depth are verified, whatever the shaper.",
)
max_nodes = _option(
    "--max-nodes",
    type=Whole(min=1),
    metavar="N",
    help="At most N nodes of a tree are verified, root included, whatever the shaper; a growmap of "
    "more is refused.",
)
max_seconds = _option(
    "--max-seconds",
    type=Real(),
    metavar="S",
    help="End a request after the step in which S seconds have passed.",
)
seed = _option(
    "--seed",
    type=Whole(min=0),
    metavar="N",
    default=0,
    help="Seed of the draws; the same seed gives the same text.",
)
kind = _option("--kind", type=click.Choice(["drafter", "shaper", "verifier", "kv", "scorer", "policy"]))
device = _option(
    "--device",
    type=Device(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to run; cuda:1 is the second GPU.",
)
dtype = _option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16", "fp64"]),
    default="auto",
    help="auto: fp32 on CPU, the checkpoint's own on CUDA.",
)
executor = _option(
    "--executor",
    type=click.Choice(["auto", "module", "functional"]),
    default="auto",
    help="How a forward runs; auto: functional where the family is described, and on CUDA whole steps "
    "of chain, fixed:threshold=0 and growmap as one graph each.",
)
prompt_file = _option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the prompt from a file; one final line break is dropped. A .jsonl file has a prompt in "
    "each line, each a request of its own.",
)
max_new_tokens = _option("--max-new-tokens", help="Most tokens to decode.")
prompt_tokens = _option("--prompt-tokens", help="Tokens of a prompt.")
as_json = _option("--json", "as_json", is_flag=True, help="JSON on stdout, and nothing else.")
json_file = _option("--json", "json_file", type=FILE, metavar="FILE", help="Write JSON to FILE.")
out = _option("--out", type=FILE, help="Where results go.")
record = _option(
    "--record",
    multiple=True,
    type=click.Choice(["steps", "nodes"]),
    help="Write these tables, too; may be repeated.",
)
plugin = _option(
    "--plugin",
    "plugins",
    multiple=True,
    is_eager=True,
    type=FILE,
    metavar="FILE",
    help="A Python file with strategies of your own; may be repeated.",
)


def _group(*members: Callable[..., Any]) -> Callable[..., Any]:
    """Combine options into one decorator; help shows them in this order, and each takes the same
    changes."""

    def make(**changes: Any) -> Callable[[Any], Any]:
        def decorate(command: Any) -> Any:
            for option in reversed(members):
                command = option(**changes)(command)
            return command

        return decorate

    return make


strategies = _group(drafter, shaper, verifier, kv, draft_kv)
# `make_pipeline` takes the members of the next two as they are.
sampling = _group(temperature, top_k, top_p, min_p)
limits = _group(max_nodes_per_level, max_nodes, max_seconds)
models = _group(device, dtype, executor)  # for every command that loads models


def load_registry(plugins: Iterable[Path]) -> Registry:
    """Load the installed plugins and the files given with `--plugin`. Raises `PluginError`."""
    from toolkit import Registry

    registry = Registry.installed()
    for file in plugins:
        registry.add_file(file)
    return registry


def make_pool(device: str, dtype: str, executor: str) -> Pool:
    """Make an empty pool of models and silence transformers. Raises `ModelError`."""
    from toolkit import Pool, quiet

    quiet()
    return Pool(device=device, dtype=dtype, executor=executor)


def make_pipeline(
    target: str | None,
    *,
    plugins: Iterable[Path],
    device: str,
    dtype: str,
    executor: str,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    max_nodes_per_level: int | None = None,
    max_nodes: int | None = None,
    max_seconds: float | None = None,
    **specs: Any,
) -> Pipeline:
    """Make and check the pipeline that the options describe; no weights are loaded.

    `specs` are drafter, shaper, verifier, kv and draft_kv. Raises what `Sampling`, `Limits`
    and `Pipeline` raise.
    """
    from toolkit import Limits, Pipeline

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    sampling = {name: value for name, value in given.items() if value is not None}
    limits = Limits(max_nodes_per_level, max_nodes, max_seconds)
    pool = make_pool(device, dtype, executor)
    registry = load_registry(plugins)
    return Pipeline(target, **specs, sampling=sampling, limits=limits, pool=pool, registry=registry)


def require_writable(file: Path) -> None:
    """Raise `ToolkitError` when a file cannot be written. Called before the work for it starts."""
    if not file.absolute().parent.is_dir():
        raise ToolkitError(f"no folder {file.parent} for {file}: make it first")
    there = file.exists()
    try:
        file.open("ab").close()
    except OSError as error:
        raise ToolkitError(f"{file} cannot be written ({error.strerror}): name another") from error
    if not there:
        file.unlink()
