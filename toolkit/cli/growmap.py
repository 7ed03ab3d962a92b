"""`toolkit growmap`: measure how often each draw is accepted, plan a static tree by it, show one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import options
from toolkit.cli.prompts import Formatting, read_prompts
from toolkit.errors import ToolkitError
from toolkit.progress import show_progress, working

if TYPE_CHECKING:
    from toolkit import Costs, GrowMap, Pipeline

CONTEXT = 256  # cached length for which costs count
SIZES, LEVELS = range(2, 65), range(1, 13)  # what is tried on this machine's costs
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def growmap() -> None:
    """Measure acceptance, plan a static tree by it, or show one."""


@growmap.command()
@options.target()
@options.drafter()
@options.verifier()
@options.sampling()
@options.seed()
@options.models()
@options.plugin()
@options.max_new_tokens(type=options.Whole(min=2), default=128)
@options.prompt_file()
@click.option("--width", type=options.Whole(min=1), default=16, help="Draws that are tried.")
@options.out(required=True, help="The acceptance vector, as a .json file.")
def measure(
    prompt_file: Path | None, width: int, max_new_tokens: int, seed: int, out: Path, **chosen: Any
) -> None:
    """Measure how often each draw is accepted.

    Each step tries WIDTH children of the root, as Sequoia does. What counts is the pair of models, the
    verifier and the temperature: measure again when one of them changes.
    """
    options.require_writable(out)
    prompts = read_prompts(None, prompt_file, None)
    with show_progress():
        pipeline = options.make_pipeline(shaper=f"growmap:{width}", **chosen)
        encoded = Formatting(None, None, {}).encode_all(prompts, pipeline)
        counts: Counter[int] = Counter()
        with working("Measuring acceptance"):
            for ids in encoded:
                counts += accepted_draws(pipeline, ids, max_new_tokens, seed)
    steps = counts.total()
    if not steps:
        raise ToolkitError("nothing was drafted: measure with a drafter and more tokens")
    acceptance = [counts[draw] / steps for draw in range(width)]
    held = {
        **{kind: pipeline.specs[kind] for kind in ("target", "drafter", "verifier")},
        "sampling": str(pipeline.sampling),
        "steps": steps,
        "acceptance": acceptance,
    }
    out.write_text(json.dumps(held, indent=1) + "\n", "utf-8")
    shares = " ".join(f"{share:.3f}" for share in acceptance)
    click.echo(f"acceptance of each draw, {steps} steps: {shares}\nwritten to {out}")


def accepted_draws(
    pipeline: Pipeline, ids: list[int], max_new_tokens: int, seed: int
) -> Counter[int]:
    """How often each draw of the root was accepted; −1 counts steps in which none was."""
    counts: Counter[int] = Counter()
    for event in pipeline.stream(ids, max_new_tokens=max_new_tokens, seed=seed).decode():
        if event.tree is not None and event.verdict is not None and len(event.tree) > 1:
            path = event.verdict.path
            counts[event.tree.children()[0].index(path[1]) if len(path) > 1 else -1] += 1
    return counts


@growmap.command()
@click.argument("acceptance", type=FILE)
@click.option("--nodes", type=options.Whole(min=2), help="Nodes of the map, root included.")
@click.option("--depth", type=options.Whole(min=1), help="Most levels below the root.")
@options.models()
@options.plugin()
@options.out(required=True, help="The map: a .pt file as Sequoia's, or .json as Medusa's paths.")
def plan(acceptance: Path, nodes: int | None, depth: int | None, out: Path, **chosen: Any) -> None:
    """Plan the best map by measured ACCEPTANCE.

    Without --nodes, the map has the size and depth with the most tokens per millisecond on this
    machine, by the measured costs of the same models.
    """
    if out.suffix not in (".pt", ".json"):
        raise ToolkitError(f"{out} is no name of a growmap: it must end in .pt or .json")
    options.require_writable(out)
    held = _read(acceptance)
    from toolkit.growmap import GrowMap

    vector = GrowMap.smooth(held["acceptance"])
    if nodes is not None:
        found = GrowMap.best(vector, nodes, depth or nodes)
    else:
        with show_progress():
            pipeline = options.make_pipeline(held["target"], drafter=held["drafter"], **chosen)
            costs = pipeline.costs()
        found = fastest(vector, costs, depth or max(LEVELS))
    found.write(out)
    click.echo(f"{describe_map(found)}, {found.expected_tokens(vector):.2f} tokens expected per step")
    click.echo(f"written to {out}: --shaper growmap:{out}")


def fastest(vector: list[float], costs: Costs, depth: int) -> GrowMap:
    """The map with the most expected tokens per millisecond."""
    from toolkit.growmap import GrowMap

    passes = costs.passes(CONTEXT, max(SIZES)).tolist()
    levels = costs.levels(CONTEXT, max(SIZES)).tolist()

    def rate(tree: GrowMap) -> float:
        frontiers = Counter(
            at for at, below in zip(tree.depths, tree.children, strict=True) if below
        )
        time = passes[len(tree) - 1] + sum(levels[width - 1] for width in frontiers.values())
        return tree.expected_tokens(vector) / time

    tried = {
        GrowMap.best(vector, size, level) for size in SIZES for level in LEVELS if level <= depth
    }
    return max(sorted(tried, key=len), key=rate)


def _read(file: Path) -> dict[str, Any]:
    """The measured vector of a file. Raises `ToolkitError`."""
    try:
        held = json.loads(file.read_text("utf-8"))
        shares = [float(share) for share in held["acceptance"]]
        good = shares and min(shares) >= 0 and 0 < sum(shares) <= 1 + 1e-9
        held["target"], held["drafter"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ToolkitError(
            f"{file} is no acceptance vector ({error}): write one with `toolkit growmap measure`"
        ) from error
    if not good:
        raise ToolkitError(f"{file}: the shares of an acceptance vector add up to at most 1")
    return {**held, "acceptance": shares}


@growmap.command()
@click.argument("name", metavar="MAP")
def show(name: str) -> None:
    """Show MAP, a name or a file.

    Each node is shown by its number among the draws of its parent."""
    from rich.tree import Tree

    from toolkit.growmap import GrowMap
    from toolkit.terminal import make_console

    tree = GrowMap.parse(name)
    drawn = {0: Tree(describe_map(tree))}
    for node, children in enumerate(tree.children):
        for draw, child in enumerate(children):
            drawn[child] = drawn[node].add(str(draw))
    make_console().print(drawn[0])


def describe_map(tree: GrowMap) -> str:
    """The size of a map in words."""
    widths = Counter(tree.depths)
    sizes = ", ".join(str(widths[depth]) for depth in sorted(widths))
    return f"{len(tree)} nodes in {max(widths)} levels below the root (by level: {sizes})"
