"""The table at the end of `toolkit bench`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .machine import describe_machine
from .results import LOOP, Results, Setting, name_of, short

BEYOND = ": above 100 %, so they stay in a cache, or memory was busy when its speed was measured"
NOT_QUIET = ": figures are not those of a quiet machine"
MOST = 24  # arms that a terminal's table shows
QUIET = 0.05  # of all cores: 10 % of one of two, and a pass waits for its slowest thread
NARROW = 12  # characters that an arm's name has at least, however wide the others are
COLUMNS = ("arm", "tokens/s", "× AR [95 %]", "reading", "τ", "3-grams", "against AR")


def show(results: Results, console: Console) -> None:
    """One table per setting, then what holds for all of them. Names are the user's, no markup."""
    for setting in results.settings:
        console.print(_table(results, setting))
        for note in notes(results, setting):
            console.print(Text(f"  {note}"))
        console.print()
    for note in closing(results):
        console.print(Text(note))


def _table(results: Results, setting: Setting) -> Table:
    title = Text(name_of(setting))
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in COLUMNS:
        words = name in ("arm", "reading", "against AR")
        table.add_column(
            name,
            overflow="fold",
            no_wrap=name not in ("arm", "against AR"),
            min_width=NARROW if name == "arm" else None,
            justify="left" if words else "right",
        )
    rows = [results.figures(arm, setting) for arm in results.by_arm]
    rows = [row for row in rows if row["prompts"]]
    if len(rows) > MOST:
        first = [row for row in rows if row["is_baseline"]]
        others = [row for row in rows if not row["is_baseline"] and row["ratio"]]
        rows = [*first, *sorted(others, key=lambda row: -row["ratio"].mean)[:MOST]]
        table.caption = f"the {MOST} fastest of {len(others)} arms; all are in the report"
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    return table


def cells(figures: dict[str, Any]) -> list[str]:
    """An arm's cells, in the order of `COLUMNS`."""
    ratio = figures["ratio"]
    baseline = figures["is_baseline"]
    return [
        short(figures["arm"]),
        number(figures["tokens_per_s"], 1),
        "1" if baseline else ratio.text if ratio else "–",
        "baseline" if baseline else ratio.reading if ratio else "–",
        number(figures["tau"], 2),
        number(figures["distinct_3grams"], 2),
        outputs(figures["verdicts"]),
    ]


def outputs(verdicts: dict[str, int]) -> str:
    """How many outputs had which verdict."""
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or "–"


def number(value: float | None, places: int) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{places}f}"


def notes(results: Results, setting: Setting) -> list[str]:
    """What a reader of one table must know."""
    found = []
    share = results.bandwidth_share(setting)
    if share is not None:
        found.append(
            f"AR reaches {100 * share:.0f} % of what reading all weights once per token from memory "
            f"allows" + (BEYOND if share > 1 else "")
        )
    baseline = next(iter(results.by_arm))
    stock = results.fastest(setting, ["hf:generate"])
    against = results.ratio(stock, setting) if stock else None
    if against is not None and against.low is not None and against.low > 1:
        found.append(
            f"Hugging Face's own generate runs at {against.text} of our AR: divide by it to compare "
            f"with the library"
        )
    found += _beside_the_library(results, setting)
    every = len(results.rows(baseline, setting, loops=True))
    looping = every - len(results.rows(baseline, setting))
    if looping:
        found.append(
            f"{looping} of {every} outputs repeat themselves (distinct 3-grams below {LOOP}) and are "
            f"left out: loops flatter every drafter"
        )
    distinct = results.figures(baseline, setting)["distinct_3grams"]
    if distinct is not None and distinct < LOOP:
        found.append(
            f"The output repeats itself (distinct 3-grams {distinct:.2f}): acceptance and speed-ups "
            f"are higher than on text that does not"
        )
    return found


def _beside_the_library(results: Results, setting: Setting) -> list[str]:
    """How AR and our fastest arm compare with the library's plain and its fastest drafted decoding."""
    ours = [next(iter(results.by_arm)), results.fastest(setting, ["toolkit"])]
    found = []
    for engines in (["hf:generate"], ["hf:assisted", "hf:lookup"]):
        theirs = results.fastest(setting, engines)
        ratios = {arm: results.ratio(arm, setting, theirs) for arm in ours if arm and theirs}
        said = [f"{short(arm)} {ratio.text} ×" for arm, ratio in ratios.items() if ratio]
        if theirs and said:
            found.append(f"Against {short(theirs)}: {', '.join(said)}")
    return found


def closing(results: Results) -> list[str]:
    """What holds for the whole bench."""
    found = [f"Machine: {describe_machine(run)}." for run in results.runs[:1]]
    load, drift = results.load, results.drift
    found += [
        f"{arm}: tuned, {run['tuned']}" for arm, run in results.by_arm.items() if run["tuned"]
    ]
    if drift is not None:
        found.append(
            f"Drift: the first arm again at the end ran at {drift.text} of its speed before."
        )
    if drift is not None and drift.low is not None and not drift.low <= 1 <= (drift.high or 1):
        found.append(
            "The machine's speed changed during the bench: do not compare tokens/s across it."
        )
    if load is None:
        found.append("Load: what other processes used of the CPU is not known on this system.")
    else:
        used = f"Load: other processes used {100 * load:.0f} % of the CPU while this ran"
        found.append(used + (NOT_QUIET if load > QUIET else "") + ".")
    if results.divergent:
        rows = results.divergent
        arms = ", ".join(sorted({row["arm"] for row in rows}))
        found.append(f"DIVERGENT: {len(rows)} outputs are not AR's, of {arms}.")
    return found
