"""The runner: every arm on every prompt, interleaved in rotated order, each request kept at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from attrs import asdict, define, evolve, field, fields

from toolkit import Generation, Run, ToolkitError, node_rows, run_record, step_rows

from .arms import Arm
from .engines import Engine, Ours
from .machine import Moment, measure_bandwidth, measure_load
from .prepared_plan import Group, PreparedPlan, Task
from .rows import (
    arm_columns,
    difference,
    environment,
    group_key,
    key_of,
    refuse_mixing,
    sample_columns,
)
from .store import Row, Store
from .tuning import best
from .verdicts import compared

Progress = Callable[[int, int, str], None]
"""Called with requests done, requests planned, and what runs now."""


@define(eq=False)
class Runner:
    """Runs a prepared into a store, from wherever the store stands."""

    prepared: PreparedPlan
    store: Store
    progress: Progress
    engines: dict[str, Engine] = field(factory=dict, init=False)
    library: dict[str, Any] = field(factory=dict, init=False)  # the library's models, by name
    runs: dict[str, Run] = field(factory=dict, init=False)
    done: dict[int, Row] = field(factory=dict, init=False)
    known: dict[tuple[Any, ...], Row] = field(factory=dict, init=False)  # by key and arm
    kept: list[Row] = field(factory=list, init=False)  # rows of `runs` from before
    digest: str = field(default="", init=False)
    bandwidth: float = field(default=0.0, init=False)
    total: int = field(default=0, init=False)

    def run(self) -> None:
        """Tune, measure, check for drift. Raises `ToolkitError`; what was finished is kept."""
        self.progress(0, 0, "loading models")
        for pipeline in self.prepared.pipelines.values():
            pipeline.load()
        self._open()
        prepared, number = self.prepared, 0
        tune, test, drift = (list(prepared.groups(split)) for split in ("tune", "test", "drift"))
        tried = self._tried()
        self.total = len(tune) * len(tried) + len(test) * len(prepared.arms) + len(drift)
        if prepared.trials:
            for arm in tried:
                self._register(arm, arm, None)
            number = self._measure(tune, tried, number)
        for arm in prepared.arms:
            self._register(arm, *self._chosen(arm))
        number = self._measure(test, prepared.arms, number)
        self._measure(drift, prepared.arms[:1], number)
        self.store.compact()

    def _open(self) -> None:
        """See what is there already, and that it is of this very configuration."""
        record = run_record(self.prepared.target)
        self.digest = self.prepared.configuration(environment(record, self.prepared))
        self.kept = self.store.rows("runs")
        strange = next((row for row in self.kept if row["config_digest"] != self.digest), None)
        if strange is not None:
            refuse_mixing(self.store.path, difference(strange, record, self.prepared))
        device = self.prepared.target.pool.torch_device
        known = [row["bandwidth_bytes_per_s"] for row in self.kept]
        self.bandwidth = known[0] if known else measure_bandwidth(device)
        for row in self.store.rows("requests"):
            self._remember(row)

    def _remember(self, row: Row) -> None:
        self.done[row["request_id"]] = row
        self.known[*key_of(row), row["arm"]] = row

    def _tried(self) -> list[Arm]:
        """The arms of the tuning: AR and every candidate."""
        trials = [arm for found in self.prepared.trials.values() for arm in found]
        bases = [self.prepared.baseline(arm) for arm in trials]
        first = self.prepared.arms[:1] if trials else []
        return list(dict.fromkeys([*first, *bases, *trials]))

    def _chosen(self, arm: Arm) -> tuple[Arm, str | None]:
        """What an arm became by tuning, and how that is told."""
        trials = self.prepared.trials.get(arm.name)
        if not trials:
            return arm, None
        rows = [row for row in self.done.values() if row["split"] == "tune"]
        chosen, held = best(trials, rows), len({row["prompt_index"] for row in rows})
        options = chosen.name.removeprefix(arm.name).strip()
        return chosen, f"{options}: best of {len(trials)} on {held} held-out prompts"

    def _register(self, arm: Arm, real: Arm, tuned: str | None) -> None:
        """The arm's engine, and its row in `runs`, which is written once."""
        if arm.name in self.engines:
            return
        self.engines[arm.name] = self._engine(real)
        kept = next((row for row in self.kept if row["arm"] == arm.name), None)
        if kept is not None:
            names = [column.name for column in fields(Run)]
            self.runs[arm.name] = Run(**{name: kept[name] for name in names})
            return
        record = run_record(self.prepared.pipelines[real.name])
        if real.engine != "toolkit":
            record = evolve(record, shaper="none", verifier="none", kv="none", draft_kv="none")
        self.runs[arm.name] = record
        columns = arm_columns(self.prepared, arm, real, tuned, self.bandwidth)
        row = asdict(record) | columns | {"config_digest": self.digest}
        self.store.write("runs", len(self.runs) - 1, [row])

    def _engine(self, arm: Arm) -> Engine:
        if arm.engine == "toolkit":
            return Ours(self.prepared.pipelines[arm.name])
        from .hf import Theirs

        return Theirs(arm, self.prepared.pipelines[arm.name], self.library)

    def _measure(self, groups: list[Group], arms: list[Arm], number: int) -> int:
        """Every arm on every group, unless it is done; the first number after them."""
        rounds = list(_rounds(groups, arms, number))
        if any(task.number not in self.done for tasks in rounds for task in tasks):
            self._warm(groups, arms)
        for tasks in rounds:
            for task in tasks:
                if task.number not in self.done:
                    self.progress(len(self.done), self.total, task.arm.name)
                    self._request(task)
                self._judge(tasks)
        self.progress(len(self.done), self.total, "")
        return number + len(groups) * len(arms)

    def _warm(self, groups: list[Group], arms: list[Arm]) -> None:
        """Requests that are thrown away: the first prompts, at the greatest length."""
        longest = max(group.setting.max_new_tokens for group in groups)
        first = [g for g in groups if g.turn == 0 and g.setting.max_new_tokens == longest]
        for group in first[: self.prepared.plan.warmup]:
            for arm in arms:
                self.progress(len(self.done), self.total, f"warm-up of {arm.name}")
                self.engines[arm.name].run(self.runs[arm.name], -1, self._prompt(group), longest)

    def _prompt(self, group: Group) -> list[int]:
        """The prompt in tokens; earlier answers in it are AR's, so that all arms get the same."""
        first = self.prepared.arms[0]
        earlier = [self._reference(evolve(group, turn=t), first) for t in range(group.turn)]
        answers = [self.prepared.encoder.decode(row["token_ids"]) for row in earlier if row]
        return self.prepared.encoder.ids(group.talk, group.turn, group.setting.prompt_limit, answers)

    def _reference(self, group: Group, baseline: Arm) -> Row | None:
        """AR's row of a group, if it is there; a drift group repeats a test group."""
        split = "test" if group.split == "drift" else group.split
        return self.known.get((*group_key(group, split), baseline.name))

    def _request(self, task: Task) -> None:
        """One request: decode, write, remember."""
        group, run, prompt = task.group, self.runs[task.arm.name], self._prompt(task.group)
        count = group.setting.max_new_tokens
        started, began = datetime.now(UTC).isoformat(timespec="milliseconds"), Moment.now()
        try:
            outcome = self.engines[task.arm.name].run(run, task.number, prompt, count)
        except ToolkitError as error:
            raise type(error)(
                f"arm {task.arm.name!r} failed on prompt {group.talk.index} of {group.talk.dataset}: "
                f"{error} (what was finished is kept)"
            ) from error
        others = measure_load(began, Moment.now())
        self._write_inside(task, run, outcome.generation)
        row = asdict(outcome.request) | sample_columns(task, started, outcome, others)
        self.store.write("requests", task.number, [row])
        self._remember(row)

    def _write_inside(self, task: Task, run: Run, done: Generation | None) -> None:
        """Steps and nodes, where they are asked for and known."""
        for table, rows in (("steps", step_rows), ("nodes", node_rows)):
            if table in self.prepared.plan.record and done is not None:
                self.store.write(table, task.number, list(rows(run, task.number, done)))

    def _judge(self, tasks: list[Task]) -> None:
        """Compare what is there of a group with AR, once AR is there, and keep the verdicts."""
        for task in tasks:
            row = self.done.get(task.number)
            reference = self._reference(task.group, self.prepared.baseline(task.arm))
            if not row or not reference or row is reference or row["verdict"] is not None:
                continue
            pipeline = self.prepared.pipelines[self.prepared.baseline(task.arm).name]
            verdict, ties = compared(row, reference, pipeline, self._prompt(task.group))
            row = row | {"verdict": verdict, "ties": ties}
            self.store.write("requests", task.number, [row])
            self._remember(row)


def _rounds(groups: list[Group], arms: list[Arm], number: int) -> Iterator[list[Task]]:
    """Numbered requests of each group; the arms begin one further on than in the group before."""
    for index, group in enumerate(groups):
        shift = index % len(arms)
        order = [*arms[shift:], *arms[:shift]]
        yield [Task(number + place, group, arm, place) for place, arm in enumerate(order)]
        number += len(arms)
