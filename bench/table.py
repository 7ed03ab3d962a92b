"""The tables and notes at the end of a bench, in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolkit.terminal import make_console

from .keys import Setting
from .law import ERROR
from .machine import describe_machine
from .results import LOOP, UNSTEADY, Results, Summary
from .statistics import Ratio

BEYOND = ": above 100 %, so they stay in a cache, or memory was busy when its speed was measured"
NOT_QUIET = ": the figures are not those of a quiet machine"
MOST = 24  # arms that a terminal's table shows
QUIET = 0.05  # of all cores: 10 % of one of two, and a pass waits for its slowest thread
NARROW = 12  # characters of an arm's name at least, however wide the other columns are
COLUMNS = ("arm", "tokens/s", "× AR [95 %]", "reading", "τ", "3-grams", "against AR")
WORDS = {"arm", "reading", "against AR", "policy", "drafter", "kv"}  # columns of text


def make_table(
    names: Sequence[str], rows: Iterable[Sequence[str]], fold: Sequence[str], **options: Any
) -> Table:
    """A table without lines. Cells of the columns `fold` may wrap; no cell is read as markup."""
    table = Table(box=None, pad_edge=False, **options)
    for name in names:
        table.add_column(
            name,
            overflow="fold",
            no_wrap=name not in fold,
            min_width=NARROW if name == "arm" else None,
            justify="left" if name in WORDS else "right",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_rows(rows: Sequence[Any], columns: Mapping[str, Callable[[Any], str]], note: str) -> None:
    """Print a table with a cell per row and column, and a note below it."""
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    console = make_console()
    console.print(make_table(list(columns), cells, fold=list(columns)))
    console.print(Text(f"\n{note}"))


def show(results: Results, console: Console) -> None:
    """Print one table per setting, then the notes on the whole bench."""
    for setting in results.settings:
        console.print(_tabulate(results, setting))
        for note in list_notes(results, setting):
            console.print(Text(f"  {note}"))
        console.print()
    for note in (*list_closing_notes(results), *list_findings(results)):
        console.print(Text(note))


def _tabulate(results: Results, setting: Setting) -> Table:
    rows = [results.summarize(arm, setting) for arm in results.by_arm]
    rows, caption = [row for row in rows if row.prompts], None
    if len(rows) > MOST:
        first = [row for row in rows if row.is_baseline]
        others = [(row.ratio.mean, row) for row in rows if not row.is_baseline and row.ratio]
        fastest = sorted(others, key=lambda pair: -pair[0])[:MOST]
        rows = [*first, *(row for _, row in fastest)]
        caption = f"the {MOST} fastest of {len(others)} arms; all are in the report"
    return make_table(
        COLUMNS,
        map(format_cells, rows),
        ("arm", "against AR"),
        title=Text(setting.title),
        title_justify="left",
        caption=caption,
    )


def format_cells(summary: Summary) -> list[str]:
    """An arm's cells, in the order of `COLUMNS`."""
    return [
        summary.label,
        format_number(summary.tokens_per_s, 1),
        format_ratio(summary.ratio, summary.is_baseline),
        summary.reading,
        format_number(summary.tau, 2),
        format_number(summary.distinct_3grams, 2),
        format_verdicts(summary.verdicts),
    ]


def format_ratio(ratio: Ratio | None, is_baseline: bool) -> str:
    """A ratio to AR with its interval."""
    if is_baseline:
        return "1"
    return ratio.text if ratio else "–"


def format_verdicts(verdicts: dict[str, int]) -> str:
    """The number of outputs per verdict."""
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or "–"


def format_number(value: float | None, places: int) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{places}f}"


def list_notes(results: Results, setting: Setting) -> list[str]:
    """The notes below the table of one setting."""
    found = []
    share = results.bandwidth_share(setting)
    if share is not None:
        found.append(
            f"AR reaches {100 * share:.0f} % of what reading all weights once per token from memory "
            f"allows" + (BEYOND if share > 1 else "")
        )
    found += _explain_slow(results, setting)
    baseline = next(iter(results.by_arm))
    stock = results.find_fastest(setting, ["hf:generate"])
    against = results.ratio(stock, setting) if stock else None
    if against is not None and against.low is not None and against.low > 1:
        found.append(
            f"Hugging Face's own generate runs at {against.text} of our AR: divide by it to compare "
            f"with the library"
        )
    found += _compare_with_library(results, setting)
    every = len(results.rows(baseline, setting, loops=True))
    looping = every - len(results.rows(baseline, setting))
    if looping:
        found.append(
            f"{looping} of {every} outputs repeat themselves (distinct 3-grams below {LOOP}) and are "
            f"left out: loops flatter every drafter"
        )
    distinct = results.summarize(baseline, setting).distinct_3grams
    if distinct is not None and distinct < LOOP:
        found.append(
            f"The output repeats itself (distinct 3-grams {distinct:.2f}): acceptance and speed-ups "
            f"are higher than on text that does not"
        )
    return found


def _explain_slow(results: Results, setting: Setting) -> list[str]:
    """Why arms are slower than AR: their steps cost more than they commit."""
    found = []
    for arm, run in results.by_arm.items():
        row, drafts = results.summarize(arm, setting), run["engine"] != "hf:generate"
        if drafts and row.reading == "slower" and row.ratio and row.tau:
            found.append(
                f"{row.label}: a step takes as long as {row.tau / row.ratio.mean:.2f} tokens of AR and "
                f"commits τ {row.tau:.2f}, so speculation does not pay here"
            )
    return found


def _compare_with_library(results: Results, setting: Setting) -> list[str]:
    """AR and our fastest arm against the library's plain and its fastest assisted decoding."""
    ours = [next(iter(results.by_arm)), results.find_fastest(setting, ["toolkit"])]
    found = []
    for engines in (["hf:generate"], ["hf:assisted", "hf:lookup"]):
        theirs = results.find_fastest(setting, engines)
        ratios = {arm: results.ratio(arm, setting, theirs) for arm in ours if arm and theirs}
        said = [f"{results.label(arm)} {ratio.text} ×" for arm, ratio in ratios.items() if ratio]
        if theirs and said:
            found.append(f"Against {results.label(theirs)}: {', '.join(said)}")
    return found


def list_closing_notes(results: Results) -> list[str]:
    """The notes on the whole bench: machine, tuning, drift, load."""
    found = [f"Machine: {describe_machine(run)}." for run in results.runs[:1]]
    load, drift = results.load, results.drift
    found += [
        f"{arm}: tuned, {run['tuned']}" for arm, run in results.by_arm.items() if run["tuned"]
    ]
    if drift is not None and not results.is_unsteady:
        found.append(f"Drift: AR again at the end ran at {drift.text} of its speed before.")
    if load is None:
        found.append("Load: what other processes used of the CPU is not known on this system.")
    else:
        used = f"Load: other processes used {100 * load:.0f} % of the CPU while this ran"
        found.append(used + (NOT_QUIET if load > QUIET else "") + ".")
    return found


def list_findings(results: Results) -> list[str]:
    """What the comparison with AR found, and whether the machine's speed changed: the page's banner."""
    lossless = {
        run["arm"] for run in results.runs if run["lossless"] and run["baseline"] != run["arm"]
    }
    verdicts = Counter(
        r["verdict"] for r in results.tested if r["verdict"] and r["arm"] in lossless
    )
    found = [
        f"Outputs of lossless arms against those of autoregressive decoding (AR): "
        f"{format_verdicts(verdicts)}."
    ]
    if results.uncompared:
        found.append(f"{results.uncompared} were not compared, because the bench was stopped.")
    for arm, run in results.by_arm.items():
        rows = results.rows(arm, loops=True)
        others = sum(row["verdict"] == "divergent" for row in rows)
        if not run["lossless"] and arm not in results.law:
            found.append(f"{results.label(arm)}: {others} of {len(rows)} outputs are not AR's.")
    synthetic = [results.label(arm) for arm, run in results.by_arm.items() if run["synthetic"]]
    if synthetic:
        found.append(
            f"NO REAL DRAFTER: {', '.join(synthetic)}. The drafts are right at a chosen rate and cost "
            f"nothing: the speed is that of a drafter that does not exist."
        )
    for arm, value in results.law.items():
        limit, count = results.least_p, len(results.law)
        said = "agree with" if value >= limit else "do NOT have"
        found.append(
            f"{results.label(arm)}: its tokens {said} the target's law (p = {value:.2g}; the limit is "
            f"{limit:.2g}: an error rate of {ERROR} over {count} arm{'s' * (count > 1)})."
        )
    if results.divergent:
        arms = ", ".join(sorted({row["arm"] for row in results.divergent}))
        found.append(
            f"DIVERGENT: outputs that are not AR's: {len(results.divergent)}, of {arms}. A lossless "
            f"arm must give AR's tokens: do not use its speed until the difference is explained."
        )
    if results.is_unsteady and results.drift:
        whole = "the interval must include 1 and" if results.drift.low is not None else "this must"
        found.append(
            f"UNSTEADY: AR again at the end ran at {results.drift.text} of its speed before, but "
            f"{whole} stay within ±{100 * UNSTEADY:.0f} % of 1. So no arm is called faster or slower: "
            f"measure again on a quiet machine."
        )
    return found
