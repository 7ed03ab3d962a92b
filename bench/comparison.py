"""Two folders of results compared, before and after a change: paired where prompts are shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import frozen
from rich.console import Console
from rich.text import Text

from toolkit import ToolkitError

from .keys import Setting
from .results import Results
from .statistics import Ratio, compare_paired, geometric_mean
from .store import Row
from .table import format_number, make_table

COLUMNS = ("arm", "tokens/s A → B", "B / A [95 %]", "of × AR [95 %]", "reading")
MACHINE = "cpu device threads isa torch_isa".split()
VERSIONS = (
    "toolkit_version toolkit_revision torch transformers dtype target target_revision".split()
)
NOTE = (
    "B / A is of tokens/s; what changed on the machine between the two benches is not in its interval. "
    "Of × AR: the same after each request is divided by AR of its own bench. The reading is of the "
    "latter, for AR of the former."
)


@frozen
class Change:
    """An arm under a setting, in both folders."""

    label: str
    prompts: int  # that both folders have; 0: nothing could be paired
    speeds: tuple[float | None, float | None]  # geometric means of tokens per second
    ratio: Ratio | None  # of B's tokens per second to A's, paired
    relative: Ratio | None  # of B's ratio to AR to A's, paired
    reading: str
    same: tuple[int, int]  # pairs with the same tokens, and all pairs


def compare(first: Results, second: Results) -> dict[Setting, list[Change]]:
    """Every arm and setting that both have. Raises `ToolkitError` when they have none in common."""
    found = {
        setting: [
            _compare_arm(first, second, arm, setting)
            for arm in first.by_arm
            if first.rows(arm, setting) and arm in second.by_arm and second.rows(arm, setting)
        ]
        for setting in first.settings
        if setting in second.settings
    }
    found = {setting: changes for setting, changes in found.items() if changes}
    if not found:
        raise ToolkitError(
            f"the two folders have nothing in common: arms {_name(first.by_arm)} and "
            f"{_name(second.by_arm)}, settings {_name(s.title for s in first.settings)} and "
            f"{_name(s.title for s in second.settings)}; both benches need the same "
            f"data sets and numbers of tokens, and arms of the same name, which name= sets"
        )
    return found


def _name(names: Any) -> str:
    return "; ".join(names) or "none"


def _compare_arm(first: Results, second: Results, arm: str, setting: Setting) -> Change:
    before, after = (_index(results.rows(arm, setting)) for results in (first, second))
    shared = before.keys() & after.keys()
    speeds = [_speeds(rows, shared) for rows in (before, after)]
    ratio = compare_paired(speeds[1], speeds[0])
    relative = None
    if first.by_arm[arm]["baseline"] != arm:
        then, now = (_relative_speeds(r, arm, setting, shared) for r in (first, second))
        relative = compare_paired(now, then)
    same = sum(before[key]["token_ids"] == after[key]["token_ids"] for key in shared)
    pairs = [results.rows(arm, setting) for results in (first, second)]
    judged = ratio if first.by_arm[arm]["baseline"] == arm else relative
    reading = judged.reading if judged else "not paired"
    if any(row["arm"] == arm for row in (*first.divergent, *second.divergent)):
        reading = "divergent"
    elif reading in ("faster", "slower") and (first.is_unsteady or second.is_unsteady):
        reading = "unsteady"
    return Change(
        label=first.label(arm),
        prompts=ratio.prompts if ratio else 0,
        speeds=(_mean_speed(pairs[0]), _mean_speed(pairs[1])),
        ratio=ratio,
        relative=relative,
        reading=reading,
        same=(same, len(shared)),
    )


def _index(rows: list[Row]) -> dict[tuple[str, int], Row]:
    """Rows by what pairs them: the prompt's tokens, and the round."""
    return {(row["prompt_id"], row["round"]): row for row in rows}


def _speeds(rows: dict[tuple[str, int], Row], shared: Any) -> dict[Any, float]:
    return {key: rows[key]["tokens_per_s"] for key in shared if rows[key]["tokens_per_s"]}


def _relative_speeds(results: Results, arm: str, setting: Setting, shared: Any) -> dict[Any, float]:
    """Speeds over those of the same folder's AR."""
    mine = _index(results.rows(arm, setting))
    base = _index(results.rows(results.by_arm[arm]["baseline"], setting))
    ours, theirs = _speeds(mine, shared), _speeds(base, shared & base.keys())
    return {key: ours[key] / theirs[key] for key in ours.keys() & theirs.keys()}


def _mean_speed(rows: list[Row]) -> float | None:
    return geometric_mean(row["tokens_per_s"] for row in rows if row["tokens_per_s"])


def show(first: Results, second: Results, console: Console) -> None:
    """Print a table per shared setting, and what differs between the folders."""
    for setting, changes in compare(first, second).items():
        title = Text(f"{setting.title}, prompts in both: {max(c.prompts for c in changes)}")
        cells = [_format(change) for change in changes]
        console.print(make_table(COLUMNS, cells, ("arm",), title=title, title_justify="left"))
        for change in changes:
            same, pairs = change.same
            if same < pairs:
                console.print(Text(f"  {change.label}: {pairs - same} of {pairs} outputs changed"))
        console.print()
    for note in list_differences(first, second):
        console.print(Text(note))


def _format(change: Change) -> list[str]:
    ratios = [ratio.text if ratio else "–" for ratio in (change.ratio, change.relative)]
    speeds = " → ".join(format_number(speed, 1) for speed in change.speeds)
    return [change.label, speeds, *ratios, change.reading]


def list_differences(first: Results, second: Results) -> Iterator[str]:
    """What is not equal in the two folders, and how to read the table."""
    before, after = first.runs[0], second.runs[0]
    for title, names in (("Versions", VERSIONS), ("The machine", MACHINE)):
        changes = [f"{n} {before[n]} → {after[n]}" for n in names if before[n] != after[n]]
        if changes:
            yield f"{title}: {', '.join(changes)}."
    for arm in first.by_arm:
        specs = [
            results.by_arm[arm]["arm_spec"] for results in (first, second) if arm in results.by_arm
        ]
        if len(set(specs)) > 1:
            yield f"{first.label(arm)}: {specs[0]} → {specs[1]}."
    for title, one, other in (("A", first, second), ("B", second, first)):
        alone = [one.label(arm) for arm in one.by_arm if arm not in other.by_arm]
        if alone:
            yield f"Only in {title}: {', '.join(alone)}."
        if one.is_unsteady and one.drift:
            yield f"UNSTEADY: in {title}, AR at the end ran at {one.drift.text} of its speed before."
        if one.divergent:
            yield f"DIVERGENT: {len(one.divergent)} outputs of {title} are not AR's."
    yield NOTE
