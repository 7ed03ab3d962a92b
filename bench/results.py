"""Results, read from the Parquet files alone: rows, settings, and a summary of each arm."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from toolkit import ToolkitError
from toolkit.words import quote

from .keys import Key, Setting
from .law import ERROR, compare_law
from .statistics import Ratio, compare_paired, geometric_mean, mean, ratios_by_prompt
from .store import Row, Store

if TYPE_CHECKING:
    from toolkit.theme import Theme

UNSTEADY = 0.15  # how far from 1 the interval of the drift may reach
LOOP = 0.5  # share of distinct 3-grams below which an output counts as a loop


@frozen
class Summary:
    """The figures of an arm under a setting; None where they are not known."""

    arm: str
    label: str
    prompts: int
    tokens_per_s: float | None  # geometric mean over requests
    ratio: Ratio | None  # of tokens_per_s against AR of the same KV policy
    reading: str  # of this ratio
    request_ratio: Ratio | None  # of tokens per second of the whole request
    ttft_ms: float | None
    tpot_ms: float | None
    tau: float | None
    path_length: float | None
    acceptance: float | None
    distinct_3grams: float | None
    verdicts: dict[str, int]
    is_baseline: bool
    synthetic: bool  # it has no real drafter


@frozen(slots=False, eq=False)
class Results:
    """The tables `runs` and `requests` of one bench."""

    runs: list[Row]
    requests: list[Row]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a folder. Raises `ToolkitError` when it holds no bench, one of another version, or
        inconsistent rows."""
        store = Store.open(path)
        runs, requests = store.rows("runs"), store.rows("requests")
        problem = _find_problem(runs, requests)
        if problem is not None:
            raise ToolkitError(f"{path} holds inconsistent results: {problem}; measure again")
        return cls(runs, requests)

    @cached_property
    def by_arm(self) -> dict[str, Row]:
        """Rows of `runs` by arm, in the order in which the arms are measured."""
        tested = {row["arm"] for row in self.requests if row["split"] == "test"}
        return {row["arm"]: row for row in self.runs if row["arm"] in tested}

    @cached_property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(map(Setting.of, self.tested)))

    @property
    def longest_settings(self) -> list[Setting]:
        """Each data set's setting with the greatest T and, with that, the longest prompts."""
        longest: dict[str, Setting] = {}
        for setting in self.settings:
            before = longest.get(setting.dataset, setting)
            longest[setting.dataset] = max(
                before, setting, key=lambda s: (s.max_new_tokens, s.prompt_limit)
            )
        return list(longest.values())

    @property
    def settings_by_prompt(self) -> list[Setting]:
        """The first data set's settings with its greatest T, by the length of the prompts."""
        longest = self.longest_settings[0]
        return sorted(
            setting
            for setting in self.settings
            if setting.dataset == longest.dataset
            and setting.max_new_tokens == longest.max_new_tokens
        )

    @cached_property
    def tested(self) -> list[Row]:
        """Requests of the split `test`: neither tuning nor drift."""
        return [row for row in self.requests if row["split"] == "test"]

    def rows(self, arm: str, setting: Setting | None = None, loops: bool = False) -> list[Row]:
        """An arm's requests, without those whose AR output loops: loops flatter every drafter.

        With `loops`, or where every output loops, all of them.
        """
        rows = [
            row for row in self.tested if row["arm"] == arm and setting in (None, Setting.of(row))
        ]
        baseline = self.by_arm[arm]["baseline"] if rows else arm
        kept = [row for row in rows if (baseline, Key.of(row)) not in self._loops]
        return rows if loops else kept or rows

    @cached_property
    def _loops(self) -> set[tuple[str, Key]]:
        """Arms and keys of the outputs that loop."""
        return {
            (row["arm"], Key.of(row))
            for row in self.tested
            if row["distinct_3grams"] is not None and row["distinct_3grams"] < LOOP
        }

    def options(self, arm: str) -> dict[str, dict[str, Any]]:
        """Every option of an arm's strategies: {"shaper": {"name": …, "depth": …}, …}."""
        found: dict[str, dict[str, Any]] = json.loads(self.by_arm[arm]["options"])
        return found

    def list_ours(self) -> list[str]:
        """The toolkit's own arms, without those of Hugging Face."""
        return [arm for arm, run in self.by_arm.items() if run["engine"] == "toolkit"]

    def ratio(
        self, arm: str, setting: Setting | None, baseline: str | None = None, whole: bool = False
    ) -> Ratio | None:
        """The ratio of an arm's speed to that of AR of the same KV policy, or of `baseline`, paired by
        prompt.

        Speed: tokens per second of decoding; with `whole`, of the whole request. Without a setting,
        the ratios of a prompt are averaged over settings first.
        """
        other = baseline or self.by_arm[arm]["baseline"]
        return compare_paired(
            _speeds_of(self.rows(arm, setting), whole), _speeds_of(self.rows(other, setting), whole)
        )

    def prompt_ratios(self, arm: str, setting: Setting) -> dict[str, float]:
        """The ratio of an arm's speed to AR's on each prompt."""
        rows = self.rows(arm, setting), self.rows(self.by_arm[arm]["baseline"], setting)
        ours, theirs = (_speeds_of(found, whole=False) for found in rows)
        return ratios_by_prompt(ours, theirs)

    @cached_property
    def drift(self) -> Ratio | None:
        """The ratio of the first arm's speed at the end to its speed before, on the same prompts."""
        again = [row for row in self.requests if row["split"] == "drift"]
        if not again:
            return None
        before = self.rows(again[0]["arm"])
        return compare_paired(_speeds_of(again, False), _speeds_of(before, False))

    @property
    def is_unsteady(self) -> bool:
        """Whether the speed of the machine changed, or may have changed: then no arm is called faster
        or slower."""
        drift = self.drift
        if drift is None:
            return False
        if drift.low is None or drift.high is None:  # too few prompts for an interval
            return not 1 - UNSTEADY <= drift.mean <= 1 + UNSTEADY
        return not 1 - UNSTEADY <= drift.low <= 1 <= drift.high <= 1 + UNSTEADY

    def read_ratio(self, arm: str, ratio: Ratio | None) -> str:
        """What the ratio of an arm's speed to AR's says, in a word or two."""
        run = self.by_arm[arm]
        if run["baseline"] == arm:
            return "baseline"
        if any(row["arm"] == arm for row in self.divergent):
            return "divergent"
        if arm in self.off_law:
            return "other law"
        if ratio is None:
            return "–"
        decided = ratio.reading in ("faster", "slower")
        return "unsteady" if decided and self.is_unsteady else ratio.reading

    def label(self, arm: str, most: int = 44) -> str:
        """An arm's name in tables and figures: short, AR in capitals, and marked if it is lossy or has
        no real drafter."""
        run = self.by_arm[arm]
        name = f"AR{arm.removeprefix('ar')}" if run["baseline"] == arm else arm
        marks = ["lossy"] * (not run["lossless"]) + ["no real drafter"] * run["synthetic"]
        name = name if run["lossless"] else name.removesuffix(" lossy")
        return f"{shorten_arm(name, most)} ({', '.join(marks)})" if marks else shorten_arm(name, most)

    def colour(self, arm: str, theme: Theme) -> str:
        """An arm's colour, the same in every figure; AR is grey."""
        others = [name for name, run in self.by_arm.items() if run["baseline"] != name]
        if arm not in others:
            return theme.soft
        return theme.colour(0 if len(others) > len(theme.colours) else others.index(arm))

    @cached_property
    def load(self) -> float | None:
        """The share of all cores' time that others used while requests ran; None: not known."""
        known = [row for row in self.requests if row["load"] is not None]
        total = sum(row["wall_ms"] for row in known)
        used = sum(row["load"] * row["wall_ms"] for row in known)
        return max(0.0, used / total) if known else None

    def find_fastest(self, setting: Setting, engines: Sequence[str]) -> str | None:
        """The fastest lossless arm of these engines with the first arm's KV policy, other than it, that
        has a real drafter."""
        first = next(iter(self.by_arm), None)
        ratios = {
            arm: ratio.mean
            for arm, run in self.by_arm.items()
            if run["engine"] in engines and run["lossless"] and not run["synthetic"]
            if run["baseline"] == first != arm
            if (ratio := self.ratio(arm, setting))
        }
        return max(ratios, key=lambda arm: ratios[arm], default=None)

    def summarize(self, arm: str, setting: Setting) -> Summary:
        """The figures of an arm under a setting."""
        rows, run = self.rows(arm, setting), self.by_arm[arm]
        speed = geometric_mean(r["tokens_per_s"] for r in rows if r["tokens_per_s"])
        ratio = self.ratio(arm, setting)
        return Summary(
            arm=arm,
            label=self.label(arm),
            prompts=len({row["prompt_index"] for row in rows}),
            tokens_per_s=speed,
            ratio=ratio,
            reading=self.read_ratio(arm, ratio),
            request_ratio=self.ratio(arm, setting, whole=True),
            ttft_ms=mean(row["ttft_ms"] for row in rows),
            tpot_ms=mean(row["tpot_ms"] for row in rows),
            tau=pool_tau(rows),
            path_length=pool(rows, "accepted", "steps"),
            acceptance=mean(row["acceptance"] for row in rows),
            distinct_3grams=mean(row["distinct_3grams"] for row in rows),
            verdicts=dict(Counter(row["verdict"] for row in rows if row["verdict"])),
            is_baseline=run["baseline"] == arm,
            synthetic=run["synthetic"],
        )

    @cached_property
    def divergent(self) -> list[Row]:
        """Rows of lossless arms whose tokens are not AR's."""
        lossless = {row["arm"]: row["lossless"] for row in self.runs}
        return [r for r in self.requests if r["verdict"] == "divergent" and lossless[r["arm"]]]

    @cached_property
    def law(self) -> dict[str, float]:
        """The p-value of each arm whose tokens are drawn by other random numbers than AR's."""
        found = {}
        for arm in self.by_arm:
            places = [r["places"] for r in self.rows(arm, loops=True) if r["places"] is not None]
            value = compare_law(places)
            if value is not None:
                found[arm] = value
        return found

    @property
    def least_p(self) -> float:
        """The p-value below which an arm has another law: the error rate, shared by the tested arms."""
        return ERROR / max(1, len(self.law))

    @property
    def off_law(self) -> list[str]:
        """Lossless arms whose tokens do not have the target's law."""
        return [a for a, p in self.law.items() if p < self.least_p and self.by_arm[a]["lossless"]]

    @property
    def uncompared(self) -> int:
        """The number of requests without a verdict: the bench was stopped before AR's turn."""
        others = {arm for arm, run in self.by_arm.items() if run["baseline"] != arm}
        return sum(row["verdict"] is None and row["arm"] in others for row in self.tested)

    @property
    def is_sound(self) -> bool:
        """Whether every output of every arm was found to be AR's, up to numerical ties."""
        others = [row for row in self.tested if self.by_arm[row["arm"]]["baseline"] != row["arm"]]
        right = all(row["verdict"] in ("exact", "tie", "sampled") for row in others)
        return bool(others) and right and not self.off_law

    def bandwidth_share(self, setting: Setting) -> float | None:
        """The ratio of AR's speed to the limit that reading every weight once per token sets."""
        run = next(iter(self.by_arm.values()), None)
        if run is None:
            return None
        rows = self.rows(run["arm"], setting)
        speed = geometric_mean(r["tokens_per_s"] for r in rows if r["tokens_per_s"])
        limit = run["bandwidth_bytes_per_s"] / run["weight_bytes"]
        return speed / limit if speed else None


def _find_problem(runs: list[Row], requests: list[Row]) -> str | None:
    """The first inconsistency of the rows, in words; None when they are sound."""
    arms = {run["arm"] for run in runs}
    for run in runs:
        if run["baseline"] not in arms:
            return f"the AR arm {quote(run['baseline'])} has no run"
        if not (run["weight_bytes"] > 0 and run["bandwidth_bytes_per_s"] > 0):
            return f"the run of arm {quote(run['arm'])} has no weights or no bandwidth"
        try:
            options = json.loads(run["options"])
        except ValueError:
            options = None
        if not isinstance(options, dict) or not all(isinstance(o, dict) for o in options.values()):
            return f'the options of arm {quote(run["arm"])} are not JSON, as {{"shaper": {{…}}}}'
    for row in requests:
        if row["arm"] not in arms:
            return f"request {row['request_id']} is of arm {quote(row['arm'])}, which has no run"
        if not (row["wall_ms"] > 0 and (row["tokens_per_s"] or 0) >= 0):
            return f"request {row['request_id']} took no time"
    if len({row["request_id"] for row in requests}) < len(requests):
        return "a request is in it twice"
    return None


def shorten_arm(name: str, most: int = 44) -> str:
    """An arm's name without the keys of its words, cut in the middle when it is long."""
    name = name.replace("drafter=", "").replace("shaper=", "")
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def pool_tau(rows: list[Row]) -> float | None:
    """τ over all rows, a ratio of sums; the first forward of each request does not count."""
    steps = sum(row["steps"] for row in rows)
    later = sum(len(row["token_ids"]) - row["first_tokens"] for row in rows)
    return later / steps if steps else None


def pool(rows: list[Row], part: str, whole: str) -> float | None:
    """The ratio of two columns' sums, over the rows that have both."""
    known = [row for row in rows if row[part] is not None and row[whole] is not None]
    total = sum(row[whole] for row in known)
    return sum(row[part] for row in known) / total if total else None


def _speeds_of(rows: list[Row], whole: bool) -> dict[Any, float]:
    """Speed by (prompt, round, key)."""
    speeds = {}
    for row in rows:
        speed = 1e3 * len(row["token_ids"]) / row["wall_ms"] if whole else row["tokens_per_s"]
        if speed:
            key = Key.of(row)
            speeds[key.prompt, key.round, key] = speed
    return speeds
