"""`toolkit cascade`: small models first, larger ones where they pay."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit import ToolkitError
from toolkit.cli import options
from toolkit.extras import require_extra
from toolkit.words import shorten

if TYPE_CHECKING:
    from .policy_file import FittedCascade
    from .recording import Recorder
    from .replay import Replayed

INTERRUPTED = 130


@click.group()
def cascade() -> None:
    """Answer with a small model where that is good enough, with a larger one otherwise."""


def _task_options(command: Any) -> Any:
    """How many tasks, which ones, and whether answers may be run to grade them."""
    for option in (
        click.option(
            "--allow-execution",
            is_flag=True,
            help="Allow tasks that are graded by running what the models write, in no sandbox.",
        ),
        options.seed(help="Seed of the choice of tasks."),
        click.option(
            "--count",
            type=options.Whole(min=1),
            metavar="N",
            help="Tasks, drawn by --seed; by default all.",
        ),
    ):
        command = option(command)
    return command


cost = click.option(
    "--cost",
    type=click.Choice(["seconds", "flops", "bytes"]),
    default="seconds",
    show_default=True,
    help="What a stage costs.",
)


@cascade.command()
@click.argument("tasks")
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="WORDS",
    help='A stage, as "target=stories-1m drafter=ngram" or "ar target=stories-1m"; repeat it, the '
    "cheapest first.",
)
@options.max_new_tokens(type=options.Whole(min=1), default=128)
@_task_options
@options.models()
@options.out(default=Path("answers"), help="Folder of the answers; one that has some is continued.")
@options.plugin()
def record(
    tasks: str,
    stages: tuple[str, ...],
    max_new_tokens: int,
    count: int | None,
    seed: int,
    allow_execution: bool,
    out: Path,
    plugins: tuple[Path, ...],
    **machine: str,
) -> None:
    """Let every stage answer TASKS once; write the graded answers as Parquet.

    TASKS is a graded data set, as mmlu or last-word:FILE.txt, or a FILE.jsonl of your own. After
    Ctrl-C, the same command goes on.
    """
    registry = options.load_registry(plugins)
    from .tasks import load_tasks, require_allowed

    chosen = load_tasks(tasks, registry, count, seed)
    require_allowed(chosen, allow_execution)
    from .recording import Recorder
    from .stages import make_stages

    made = make_stages(stages, options.make_pool(**machine), registry, max_new_tokens)
    recorder = Recorder.open(out, made, chosen)
    try:
        _record_stages(recorder)
    except KeyboardInterrupt:
        click.echo(f"stopped: {recorder.line}; the same command goes on", err=True)
        raise SystemExit(INTERRUPTED) from None
    click.echo(
        f"{recorder.line}; next: toolkit cascade fit {out} with --trade-off, "
        f"--budget or --floor"
    )


def _record_stages(recorder: Recorder) -> None:
    """Record stage by stage. Say what each is worth and costs, and which is cheaper than the one before
    it."""
    from toolkit.progress import show_progress

    before = 0.0
    for stage in recorder.stages:
        with show_progress():
            answers = recorder.record(stage)
        quality = sum(answer.quality or 0 for answer in answers) / len(answers)
        seconds = sum(answer.seconds for answer in answers) / len(answers)
        click.echo(f"quality {quality:.3f}, {seconds:.4g} s a prompt: {stage.name}")
        if seconds < before:
            click.echo(
                f"warning: stage {stage.number} takes less time than stage {stage.number - 1}, and "
                f"`fit` takes stages in order of their cost: record the cheapest first, or fit with "
                f"another --cost",
                err=True,
            )
        before = seconds
    recorder.join()


@cascade.command()
@click.argument("rows", type=options.FILE)
@click.option(
    "--policy", metavar="SPEC", default="dp", show_default=True, help="Stop policy to fit."
)
@click.option(
    "--scorer", metavar="SPEC", default="logistic", show_default=True, help="Scorer of the answers."
)
@click.option(
    "--trade-off",
    type=options.Real(),
    metavar="λ",
    help="Cost that one unit of quality is worth: what you would pay to turn a wrong answer right.",
)
@click.option(
    "--budget", type=options.Real(), metavar="C", help="Mean cost of a prompt, met in expectation."
)
@click.option(
    "--floor",
    type=options.Real(),
    metavar="SHARE",
    help="Share of the last stage's quality to keep, as 0.95: takes at least 160 recorded prompts, and "
    "for 0.95 at least 260.",
)
@click.option(
    "--delta",
    type=options.Real(),
    metavar="P",
    default=0.05,
    show_default=True,
    help="Most probability that the floor is missed.",
)
@cost
@options.out(default=Path("cascade.json"), help="File of the fitted cascade.")
@options.plugin()
def fit(
    rows: Path,
    policy: str,
    scorer: str,
    trade_off: float | None,
    budget: float | None,
    floor: float | None,
    delta: float,
    cost: str,
    out: Path,
    plugins: tuple[Path, ...],
) -> None:
    """Fit a policy to the recorded answers in ROWS: give --trade-off, --budget or --floor.

    Half of the prompts, chosen by their ids, are left out for `toolkit cascade replay`.
    """
    _require_goal(trade_off, budget, floor, delta)
    options.require_writable(out)
    require_extra("toolkit cascade fit", "cascade", "sklearn")
    registry = options.load_registry(plugins)
    chosen = registry.resolve("policy", policy).build()
    scores = registry.resolve("scorer", scorer).build()
    from toolkit.progress import show_progress, working

    from .answers import read_answers
    from .fitting import Fitting
    from .policy_file import write_fitted

    with show_progress(), working("fitting"):
        fitting = Fitting.of(read_answers(rows), scores, cost, floor=floor is not None)
        if trade_off is not None:
            fitted = fitting.for_trade_off(chosen, trade_off)
        elif budget is not None:
            fitted = fitting.within_budget(chosen, budget)
        else:
            fitted = fitting.above_floor(chosen, floor or 0.0, delta)
    write_fitted(fitted, out)
    mixed = f"; {fitted.share:.1%} of the prompts take a second one" if fitted.share else ""
    click.echo(
        f"{policy} for λ = {fitted.trade_off:.4g} {cost}{mixed}; fitted to {len(fitted.fitted_on)} "
        f"prompts\nwrote {out}; next: toolkit cascade replay {rows} {out}"
    )


def _require_goal(
    trade_off: float | None, budget: float | None, floor: float | None, delta: float
) -> None:
    """Raise `ToolkitError` unless there is one goal, in its range."""
    goals = {"--trade-off": trade_off, "--budget": budget, "--floor": floor}
    given = {name: value for name, value in goals.items() if value is not None}
    if len(given) != 1:
        raise ToolkitError("give one of --trade-off, --budget and --floor: what to fit for")
    for name, value in given.items():
        if not isfinite(value) or value < 0:
            raise ToolkitError(f"{name} is a number from 0 on, not {value:g}")
    if floor is not None and floor > 1:
        raise ToolkitError(f"--floor is a share from 0 to 1, not {floor:g}")
    if not 0 < delta < 1:
        raise ToolkitError(f"--delta is a probability between 0 and 1, not {delta:g}")


@cascade.command()
@click.argument("rows", type=options.FILE)
@click.argument("fitted", type=options.FILE)
@options.plugin()
def replay(rows: Path, fitted: Path, plugins: tuple[Path, ...]) -> None:
    """Say what the FITTED cascade costs and is worth on the recorded answers in ROWS; load no model.

    Prompts that it was fitted to are left out. The oracle knows all grades: a ceiling.
    """
    from .answers import read_answers
    from .policy_file import read_fitted
    from .replay import replay_fitted

    held = read_fitted(fitted, options.load_registry(plugins))
    found = replay_fitted(held, read_answers(rows))
    from toolkit.terminal import print_table

    print_table(_make_table(found, held))
    prompts = len(found[0].costs)
    click.echo(f"{prompts} prompts that the cascade was not fitted to; 95 % bootstrap intervals")


def _make_table(found: list[Replayed], held: FittedCascade) -> Any:
    from rich.table import Table
    from rich.text import Text

    columns = ("policy", "quality [95 %]", f"cost, {held.cost} [95 %]", "stages that answer")
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for each in found:
        cells = [each.quality.describe(".4g"), each.cost.describe(".4g")]
        usage = " / ".join(f"{share:.0%}" for share in each.usage)
        table.add_row(*map(Text, (each.name, *cells, usage)))
    return table


@cascade.command()
@click.argument("fitted", type=options.FILE)
@click.argument("prompt", required=False)
@click.option("--tasks", metavar="TASKS", help="Answer and grade tasks, named as for `record`.")
@_task_options
@options.models()
@options.plugin()
def run(
    fitted: Path,
    prompt: str | None,
    tasks: str | None,
    count: int | None,
    seed: int,
    allow_execution: bool,
    plugins: tuple[Path, ...],
    **machine: str,
) -> None:
    """Answer PROMPT, or tasks, with the FITTED cascade: run stages until its policy stops.

    PROMPT is sent to instruct models as a message, to others as it is. The text is that of the stage
    that answers: token by token its model's greedy AR text.
    """
    if (prompt is None) == (tasks is None):
        raise ToolkitError("give a PROMPT or --tasks: one of them")
    registry = options.load_registry(plugins)
    from .live import answer_prompt, answer_tasks, require_no_feedback
    from .policy_file import read_fitted
    from .stages import make_stages
    from .tasks import load_tasks, require_allowed

    held = read_fitted(fitted, registry)
    chosen = load_tasks(tasks, registry, count, seed) if tasks else []
    require_allowed(chosen, allow_execution)
    if prompt is not None:
        require_no_feedback(held)
    stages = make_stages(held.stages, options.make_pool(**machine), registry)
    from toolkit.progress import show_progress, working

    if prompt is not None:
        with show_progress(), working("answering"):
            found = answer_prompt(held, stages, prompt, chat=True)
        click.echo(found.text)
        click.secho(found.describe(held.cost), dim=True, err=True)
        return
    costs, grades = [], []
    try:
        for task, found, grade in answer_tasks(held, stages, chosen):
            costs.append(found.cost(held.cost))
            grades.append(grade)
            click.echo(f"{grade:g}  stage {found.stage}  {shorten(task.prompt)!r} → {found.text!r}")
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    if grades:
        mean = sum(costs) / len(costs)
        click.echo(
            f"{len(grades)} of {len(chosen)} tasks: quality {sum(grades) / len(grades):.3f}, "
            f"{mean:.4g} {held.cost} a prompt"
        )
    if len(grades) < len(chosen):
        raise SystemExit(INTERRUPTED)


@cascade.command()
@click.argument("rows", type=options.FILE)
@click.option(
    "--scorer", metavar="SPEC", default="logistic", show_default=True, help="Scorer of the answers."
)
@cost
@options.out(default=Path("cascade-report"), help="Folder of the page and its figures.")
@options.plugin()
def report(rows: Path, scorer: str, cost: str, out: Path, plugins: tuple[Path, ...]) -> None:
    """Compare all policies on the recorded answers in ROWS, in the terminal and on an HTML page.

    Policies are fitted on one half of the prompts and reported on the other.
    """
    require_extra("toolkit cascade report", "plots", "jinja2", "matplotlib")
    registry = options.load_registry(plugins)
    chosen = registry.resolve("scorer", scorer).build()
    from toolkit.progress import show_progress, working
    from toolkit.terminal import print_table

    from .answers import read_answers
    from .report import list_notes, make_tables, write_report
    from .study import Study, list_fitted_policies

    with show_progress(), working("fitting the policies, and running the online ones"):
        study = Study.of(read_answers(rows), chosen, list_fitted_policies(registry), cost)
        page = write_report(study, out)
    for table in make_tables(study):
        print_table(table)
        click.echo()
    for note in list_notes(study):
        click.echo(note)
    click.echo(f"wrote {page} and {len(list(out.glob('*.png')))} figures beside it")
