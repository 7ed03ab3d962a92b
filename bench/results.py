"""Results, read from the Parquet alone: rows, settings, and each arm's figures under a setting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from attrs import frozen

from toolkit import ToolkitError
from toolkit.words import cut

from .statistics import Ratio, geometric_mean, mean, paired
from .store import Row, Store

LOOP = 0.5  # distinct 3-grams below which an output mostly repeats itself

Setting = tuple[str, int, int]
"""Data set, prompt limit and T: what stays equal within a comparison."""


@frozen(slots=False, eq=False)
class Results:
    """The tables of one bench."""

    runs: list[Row]
    requests: list[Row]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises `ToolkitError` when a folder holds no bench, one of another version, or rows that no
        bench wrote."""
        store = Store.open(path)
        runs, requests = store.rows("runs"), store.rows("requests")
        problem = _unsound(runs, requests)
        if problem is not None:
            raise ToolkitError(f"{path} holds what no bench wrote: {problem}; measure anew")
        return cls(runs, requests)

    @cached_property
    def by_arm(self) -> dict[str, Row]:
        """The runs' rows by arm, in the order in which the arms are measured."""
        tested = {row["arm"] for row in self.requests if row["split"] == "test"}
        return {row["arm"]: row for row in self.runs if row["arm"] in tested}

    @cached_property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(setting_of(row) for row in self.tested))

    @cached_property
    def tested(self) -> list[Row]:
        """Requests of the result itself: neither tuning nor drift."""
        return [row for row in self.requests if row["split"] == "test"]

    def rows(self, arm: str, setting: Setting | None = None, loops: bool = False) -> list[Row]:
        """An arm's requests. Those whose AR output mostly repeats itself flatter every drafter: they
        are left out, unless asked for with `loops`, or unless there are no others."""
        rows = [
            row for row in self.tested if row["arm"] == arm and setting in (None, setting_of(row))
        ]
        baseline = self.by_arm[arm]["baseline"] if rows else arm
        kept = [row for row in rows if (baseline, *_place_of(row)) not in self._looping]
        return rows if loops else kept or rows

    @cached_property
    def _looping(self) -> set[tuple[Any, ...]]:
        """The places of outputs that mostly repeat themselves, by arm."""
        return {
            (row["arm"], *_place_of(row))
            for row in self.tested
            if row["distinct_3grams"] is not None and row["distinct_3grams"] < LOOP
        }

    def options(self, arm: str) -> dict[str, dict[str, Any]]:
        """Every option of an arm's strategies: {"shaper": {"name": …, "depth": …}, …}."""
        found: dict[str, dict[str, Any]] = json.loads(self.by_arm[arm]["options"])
        return found

    def ours(self) -> list[str]:
        """Arms of the toolkit, those of Hugging Face left out."""
        return [arm for arm, run in self.by_arm.items() if run["engine"] == "toolkit"]

    def ratio(
        self, arm: str, setting: Setting | None, baseline: str | None = None, whole: bool = False
    ) -> Ratio | None:
        """Speed against AR of the same KV policy, or against another arm, by paired prompts.

        Tokens per second of decoding; `whole`, of the whole request. Over all settings without one:
        then a prompt's settings are averaged first.
        """
        other = baseline or self.by_arm[arm]["baseline"]
        return paired(
            _speeds(self.rows(arm, setting), whole), _speeds(self.rows(other, setting), whole)
        )

    @cached_property
    def drift(self) -> Ratio | None:
        """The first arm's speed at the end over its speed before, on the same prompts."""
        again = [row for row in self.requests if row["split"] == "drift"]
        if not again:
            return None
        before = self.rows(again[0]["arm"])
        return paired(_speeds(again, False), _speeds(before, False))

    @cached_property
    def load(self) -> float | None:
        """The share of all cores' time that other processes used while requests ran."""
        known = [row for row in self.requests if row["load"] is not None]
        total = sum(row["wall_ms"] for row in known)
        used = sum(row["load"] * row["wall_ms"] for row in known)
        return max(0.0, used / total) if known else None

    def fastest(self, setting: Setting, engines: Sequence[str]) -> str | None:
        """The fastest lossless arm of some engines under the first arm's KV policy, that arm apart."""
        first = next(iter(self.by_arm), None)
        ratios = {
            arm: ratio.mean
            for arm, run in self.by_arm.items()
            if run["engine"] in engines and run["lossless"] and run["baseline"] == first != arm
            if (ratio := self.ratio(arm, setting))
        }
        return max(ratios, key=lambda arm: ratios[arm], default=None)

    def figures(self, arm: str, setting: Setting) -> Row:
        """The table's row of an arm under a setting; missing figures are None."""
        rows, run = self.rows(arm, setting), self.by_arm[arm]
        speed = geometric_mean(r["tokens_per_s"] for r in rows if r["tokens_per_s"])
        verdicts = Counter(row["verdict"] for row in rows if row["verdict"])
        return {
            "arm": arm,
            "prompts": len({row["prompt_index"] for row in rows}),
            "tokens_per_s": speed,
            "ratio": self.ratio(arm, setting),
            "whole_ratio": self.ratio(arm, setting, whole=True),
            "ttft_ms": mean(row["ttft_ms"] for row in rows),
            "tpot_ms": mean(row["tpot_ms"] for row in rows),
            "tau": tau(rows),
            "path_length": pooled(rows, "accepted", "steps"),
            "acceptance": mean(row["acceptance"] for row in rows),
            "distinct_3grams": mean(row["distinct_3grams"] for row in rows),
            "verdicts": dict(verdicts),
            "lossless": run["lossless"],
            "tuned": run["tuned"],
            "is_baseline": run["baseline"] == arm,
        }

    @property
    def divergent(self) -> list[Row]:
        """Rows that broke the promise: not AR's tokens, of an arm that is not declared lossy."""
        lossless = {row["arm"]: row["lossless"] for row in self.runs}
        return [r for r in self.requests if r["verdict"] == "divergent" and lossless[r["arm"]]]

    @property
    def uncompared(self) -> int:
        """Requests that have no verdict yet: the bench was stopped before AR's turn."""
        others = {arm for arm, run in self.by_arm.items() if run["baseline"] != arm}
        return sum(row["verdict"] is None and row["arm"] in others for row in self.tested)

    def bandwidth_share(self, setting: Setting) -> float | None:
        """AR's speed over what reading every weight once per token would allow."""
        run = next(iter(self.by_arm.values()), None)
        if run is None:
            return None
        rows = self.rows(run["arm"], setting)
        speed = geometric_mean(r["tokens_per_s"] for r in rows if r["tokens_per_s"])
        limit = run["bandwidth_bytes_per_s"] / run["weight_bytes"]
        return speed / limit if speed else None


def _unsound(runs: list[Row], requests: list[Row]) -> str | None:
    """What is wrong with rows that were read, in words; None when they belong together."""
    arms = {run["arm"] for run in runs}
    for run in runs:
        if run["baseline"] not in arms:
            return f"the AR arm {cut(run['baseline'])} has no run"
        if not (run["weight_bytes"] > 0 and run["bandwidth_bytes_per_s"] > 0):
            return f"the run of arm {cut(run['arm'])} has no weights or no bandwidth"
        try:
            options = json.loads(run["options"])
        except ValueError:
            options = None
        if not isinstance(options, dict) or not all(isinstance(o, dict) for o in options.values()):
            return f'the options of arm {cut(run["arm"])} are not JSON, as {{"shaper": {{…}}}}'
    for row in requests:
        if row["arm"] not in arms:
            return f"request {row['request_id']} is of arm {cut(row['arm'])}, which has no run"
        if not (row["wall_ms"] > 0 and (row["tokens_per_s"] or 0) >= 0):
            return f"request {row['request_id']} took no time"
    if len({row["request_id"] for row in requests}) < len(requests):
        return "a request is in it twice"
    return None


def setting_of(row: Row) -> Setting:
    """The setting that a request was made under."""
    return row["dataset"], row["prompt_limit"], row["max_new_tokens"]


def _place_of(row: Row) -> tuple[Any, ...]:
    """What is equal for all arms' requests of one prompt under one setting."""
    return *setting_of(row), row["prompt_index"], row["turn"]


def name_of(setting: Setting) -> str:
    """A setting in words."""
    _, limit, count = setting
    return f"{set_name(setting)}, prompts of at most {limit} tokens, T = {count}"


def set_name(setting: Setting) -> str:
    """The data set's name, or its file's, without the way there."""
    head, _, rest = setting[0].partition(":")
    return head if rest and "/" not in head and "." not in head else setting[0].rpartition("/")[2]


def short(name: str, most: int = 44) -> str:
    """An arm's name: words without their keys, shortened in the middle when it is long."""
    name = name.replace("drafter=", "").replace("shaper=", "")
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def tau(rows: list[Row]) -> float | None:
    """Tokens per target forward over all requests: a ratio of sums, first forwards left out."""
    steps = sum(row["steps"] for row in rows)
    later = sum(len(row["token_ids"]) - row["first_tokens"] for row in rows)
    return later / steps if steps else None


def pooled(rows: list[Row], part: str, whole: str) -> float | None:
    """A ratio of sums over the rows that have both."""
    known = [row for row in rows if row[part] is not None and row[whole] is not None]
    total = sum(row[whole] for row in known)
    return sum(row[part] for row in known) / total if total else None


def _speeds(rows: list[Row], whole: bool) -> dict[Any, float]:
    """Speed by (prompt, setting, turn)."""
    speeds = {}
    for row in rows:
        speed = 1e3 * len(row["token_ids"]) / row["wall_ms"] if whole else row["tokens_per_s"]
        if speed:
            prompt = f"{row['dataset']} {row['prompt_index']}"
            speeds[prompt, setting_of(row), row["turn"]] = speed
    return speeds
