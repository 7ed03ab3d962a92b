"""`toolkit plan`: does another level of drafters pay, and how many tokens should each draft?"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import options
from toolkit.cli.prompts import BUILT_IN_PROMPT
from toolkit.errors import ToolkitError
from toolkit.progress import show_progress, working
from toolkit.words import parse_real, quote

if TYPE_CHECKING:
    from toolkit import Pipeline
    from toolkit.level_plan import Level, LevelPlan

TARGET = "target"


class Named(click.ParamType[tuple[str, float]]):
    """NAME=NUMBER."""

    name = "named"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, _, number = value.rpartition("=")
        try:
            share = parse_real(number)
        except ValueError:
            name = ""
        if not name:
            self.fail(f"{quote(value)} is not NAME=NUMBER, as in small=0.8", param, ctx)
        return name, share


@click.command()
@click.argument("prompts", nargs=-1)
@options.target()
@click.option(
    "--level",
    "levels",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="A drafter, from the largest to the smallest; repeat it.",
)
@click.option(
    "--acceptance",
    multiple=True,
    type=Named(),
    metavar="LEVEL=P",
    help="Share of a level's tokens that the target accepts; UPPER/LEVEL=P: that another level does. "
    "Measured when left out.",
)
@click.option(
    "--cost",
    multiple=True,
    type=Named(),
    metavar="LEVEL=C",
    help="Cost of a level's pass in passes of the target. Measured when left out.",
)
@options.max_new_tokens(type=options.Whole(min=8), default=96)
@options.models()
@options.plugin()
def plan(
    prompts: tuple[str, ...],
    levels: tuple[str, ...],
    acceptance: tuple[tuple[str, float], ...],
    cost: tuple[tuple[str, float], ...],
    max_new_tokens: int,
    **chosen: Any,
) -> None:
    """Say which chain of drafters should be fastest, and with how many tokens a step and a pass.

    It measures acceptance on the target's own greedy text after PROMPTS, and costs on this machine.
    With --acceptance and --cost it computes from those numbers and loads no model. It assumes that a
    level's tokens are accepted with one probability at every depth: check the answer with
    `toolkit bench`.
    """
    from toolkit.level_plan import plan_levels, require_acceptance

    if len(set(levels)) < len(levels):
        raise ToolkitError("a level is given twice: give each drafter once")
    if acceptance or cost:
        target, chain, shares = _read_numbers(levels, acceptance, cost)
    else:
        with show_progress():
            target, chain, shares = _measure(
                prompts or (BUILT_IN_PROMPT,), levels, max_new_tokens, chosen
            )
    require_acceptance(levels, TARGET, shares)
    _show(target, chain, shares, plan_levels(target, chain, shares))


def _read_numbers(
    levels: tuple[str, ...],
    acceptance: tuple[tuple[str, float], ...],
    cost: tuple[tuple[str, float], ...],
) -> tuple[Level, list[Level], dict[tuple[str, str], float]]:
    """Target, levels and acceptance from the command line. Raises `ToolkitError`."""
    from toolkit.level_plan import Level

    costs, shares = dict(cost), {}
    for name in [*costs, *(name for pair, _ in acceptance for name in pair.split("/"))]:
        if name not in levels:
            raise ToolkitError(f"{quote(name)} is no --level; the levels are {', '.join(levels)}")
    for name, share in acceptance:
        upper, slash, lower = name.rpartition("/")
        shares[upper if slash else TARGET, lower] = share
    for name in levels:
        if costs.get(name, -1.0) <= 0:
            raise ToolkitError(f"level {quote(name)} needs a cost above 0: add --cost {name}=0.1")
    return Level(TARGET, (1.0,)), [Level(name, (costs[name],)) for name in levels], shares


def _measure(
    prompts: tuple[str, ...], levels: tuple[str, ...], max_new_tokens: int, chosen: dict[str, Any]
) -> tuple[Level, list[Level], dict[tuple[str, str], float]]:
    """Measure target, levels and acceptance."""
    from toolkit.level_plan import MOST_DRAFTED, Level
    from toolkit.runtime.measure_levels import predict_text, share_equal

    specs: dict[str, Any] = {
        "shaper": "chain",
        "verifier": "greedy",
        "kv": "full",
        "draft_kv": "full",
    }
    pipelines: list[Pipeline] = []
    for name in levels:
        pipelines.append(options.make_pipeline(**chosen, **specs, drafter=name))
        if pipelines[-1].drafter.is_synthetic:
            raise ToolkitError(
                f"level {quote(name)} is no real drafter: give the acceptance and the cost that you "
                f"think of with --acceptance and --cost"
            )
        chosen["target"] = chosen["target"] or pipelines[0].target
    predicted: dict[str, list[int | None]] = {TARGET: [], **{name: [] for name in levels}}
    for number, prompt in enumerate(prompts, 1):
        with working(f"measuring acceptance on prompt {number} of {len(prompts)}"):
            ids = pipelines[0].encode(prompt)
            text = (
                pipelines[0].autoregressive.generate(ids, max_new_tokens=max_new_tokens).token_ids
            )
            predicted[TARGET] += text[1:]
            for name, pipeline in zip(levels, pipelines, strict=True):
                predicted[name] += predict_text(pipeline.begin, ids, text[:-1])
    if not predicted[TARGET]:
        raise ToolkitError("the target ended after one token: give longer or other prompts")
    pairs = combinations([TARGET, *levels], 2)
    shares = {pair: share_equal(predicted[pair[0]], predicted[pair[1]]) for pair in pairs}
    chain, length = [], len(predicted[TARGET]) // len(prompts)
    for name, pipeline in zip(levels, pipelines, strict=True):
        costs = pipeline.costs()
        chain.append(Level(name, tuple(costs.levels(length, MOST_DRAFTED + 1))))
    return Level(TARGET, tuple(costs.passes(length, MOST_DRAFTED + 1))), chain, shares


def _show(
    target: Level, chain: list[Level], shares: dict[tuple[str, str], float], plans: list[LevelPlan]
) -> None:
    from rich.table import Table

    from toolkit.level_plan import pays
    from toolkit.terminal import make_console

    console = make_console()
    table = Table(box=None, pad_edge=False)
    for heading in (
        "level",
        "cost of a pass",
        *(f"accepted by {level.name}" for level in [target, *chain[:-1]]),
    ):
        table.add_column(
            heading, justify="left" if heading == "level" else "right", overflow="fold"
        )
    for index, level in enumerate(chain):
        uppers = [TARGET, *(upper.name for upper in chain[:index])]
        cells = [f"{100 * shares[upper, level.name]:.0f} %" for upper in uppers]
        table.add_row(level.name, f"{level.cost(1) / target.cost(1):.3f}", *cells)
    console.print(table)
    console.print()
    table = Table(box=None, pad_edge=False)
    for heading in ("× AR", "tokens a step", "options of `toolkit run`"):
        table.add_column(heading, justify="left" if "run" in heading else "right", overflow="fold")
    for made in plans:
        table.add_row(f"{made.speed_up:.2f}", f"{made.tokens:.2f}", made.specs)
    console.print(table)
    console.print()
    for level in chain:
        gain = pays(level.name, plans)
        verdict = "pays" if gain > 1 else "does not pay"
        console.print(
            f"{level.name} {verdict}: {gain:.2f} × the best plan without it", highlight=False
        )
