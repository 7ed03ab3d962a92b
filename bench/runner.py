"""The runner: every arm on every prompt, interleaved in rotated order, each request written at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

from attrs import define, evolve, field, fields

from toolkit import Generation, Run, ToolkitError, node_rows, run_record, step_rows
from toolkit.cpu_load import Moment, measure_load
from toolkit.exactness import compare_with_ar
from toolkit.records import utc_now

from .arms import Arm
from .configuration import digest_configuration, require_same
from .engines import Engine, PipelineEngine
from .keys import Key
from .law import place_tokens
from .machine import measure_bandwidth
from .prepared_plan import Group, PreparedPlan, Task
from .rows import make_arm_row, make_request_row, make_run
from .statistics import divide
from .store import Row, Store
from .tuning import choose_best

Progress = Callable[[int, int, str], None]
"""Called with requests done, requests planned, and what runs now."""


@define(eq=False)
class Runner:
    """Runs a plan into a store; goes on where the store's requests end."""

    prepared: PreparedPlan
    store: Store
    progress: Progress
    engines: dict[str, Engine] = field(factory=dict, init=False)
    library: dict[str, Any] = field(factory=dict, init=False)  # Hugging Face's modules, by name
    runs: dict[str, Run] = field(factory=dict, init=False)
    done: dict[int, Row] = field(factory=dict, init=False)
    known: dict[tuple[Key, str], Row] = field(factory=dict, init=False)  # by key and arm
    kept: list[Row] = field(factory=list, init=False)  # rows of `runs` from before
    digest: str = field(default="", init=False)
    bandwidth: float = field(default=0.0, init=False)
    total: int = field(default=0, init=False)

    def run(self) -> None:
        """Tune, measure, check for drift. Raises `ToolkitError`; finished requests are kept."""
        self.progress(0, 0, "loading models")
        for pipeline in self.prepared.pipelines.values():
            pipeline.load()
        self._open()
        prepared, number = self.prepared, 0
        tune, test, drift = (list(prepared.groups(split)) for split in ("tune", "test", "drift"))
        candidates = self._list_candidates()
        self.total = len(tune) * len(candidates) + len(test) * len(prepared.arms) + len(drift)
        if prepared.trials:
            for arm in candidates:
                self._register(arm, arm, None)
            number = self._measure(tune, candidates, number)
        for arm in prepared.arms:
            self._register(arm, *self._tune(arm))
        number = self._measure(test, prepared.arms, number)
        self._measure(drift, prepared.arms[:1], number)
        self.store.compact()

    def _open(self) -> None:
        """Read the requests that are already there. Raises `ToolkitError` for another configuration."""
        run = run_record(self.prepared.target)
        self.digest = digest_configuration(self.prepared, run)
        self.kept = self.store.rows("runs")
        for row in self.kept:
            require_same(self.store.path, row, self.prepared, run, self.digest)
        device = self.prepared.target.pool.torch_device
        known = [row["bandwidth_bytes_per_s"] for row in self.kept]
        self.bandwidth = known[0] if known else measure_bandwidth(device)
        for row in self.store.rows("requests"):
            self._remember(row)

    def _remember(self, row: Row) -> None:
        self.done[row["request_id"]] = row
        if row["split"] != "drift":  # which repeats requests of the test
            self.known[Key.of(row), row["arm"]] = row

    def _list_candidates(self) -> list[Arm]:
        """The arms of the tuning: AR and every candidate."""
        trials = [arm for found in self.prepared.trials.values() for arm in found]
        bases = [self.prepared.baseline(arm) for arm in trials]
        first = self.prepared.arms[:1] if trials else []
        return list(dict.fromkeys([*first, *bases, *trials]))

    def _tune(self, arm: Arm) -> tuple[Arm, str | None]:
        """The arm with its best options, and how they were chosen, in words."""
        trials = self.prepared.trials.get(arm.name)
        if not trials:
            return arm, None
        rows = [row for row in self.done.values() if row["split"] == "tune"]
        best, held = choose_best(trials, rows), len({row["prompt_index"] for row in rows})
        options = best.name.removeprefix(arm.name).strip()
        return best, f"{options}: best of {len(trials)} on {held} held-out prompts"

    def _register(self, arm: Arm, real: Arm, tuned: str | None) -> None:
        """Make the arm's engine, and write its row of `runs` once."""
        if arm.name in self.engines:
            return
        self.engines[arm.name] = self._make_engine(real)
        kept = next((row for row in self.kept if row["arm"] == arm.name), None)
        if kept is not None:
            names = [column.name for column in fields(Run)]
            self.runs[arm.name] = Run(**{name: kept[name] for name in names})
            return
        run = self.runs[arm.name] = make_run(self.prepared, real)
        row = make_arm_row(
            self.prepared,
            arm,
            real,
            run,
            digest=self.digest,
            tuned=tuned,
            bandwidth=self.bandwidth,
        )
        self.store.write("runs", len(self.runs) - 1, [row])

    def _make_engine(self, arm: Arm) -> Engine:
        if arm.engine == "toolkit":
            record_nodes = "nodes" in self.prepared.plan.record
            return PipelineEngine(self.prepared.pipelines[arm.name], record_nodes)
        from .hf import LibraryEngine

        return LibraryEngine(arm, self.prepared.pipelines[arm.name], self.library)

    def _measure(self, groups: list[Group], arms: list[Arm], number: int) -> int:
        """Run every arm on every group, numbered from `number`; the next number."""
        lists = list(_list_tasks(groups, arms, number))
        if any(task.number not in self.done for tasks in lists for task in tasks):
            self._warm_up(groups, arms)
        for tasks in lists:
            for task in tasks:
                if task.number not in self.done:
                    self.progress(len(self.done), self.total, task.arm.name)
                    self._request(task)
                self._judge(tasks)
        self.progress(len(self.done), self.total, "")
        return number + len(groups) * len(arms)

    def _warm_up(self, groups: list[Group], arms: list[Arm]) -> None:
        """Decode the first prompts at the greatest length; these requests are not recorded."""
        longest = max(group.setting.max_new_tokens for group in groups)
        first = [g for g in groups if g.turn == 0 and g.setting.max_new_tokens == longest]
        for group in first[: self.prepared.plan.warmup]:
            for arm in arms:
                self.progress(len(self.done), self.total, f"warm-up of {arm.name}")
                self.engines[arm.name].run(self.runs[arm.name], -1, self._prompt(group), longest, 0)

    def _prompt(self, group: Group) -> list[int]:
        """The prompt in tokens; earlier answers in it are AR's, so that all arms get the same."""
        first, encoder = self.prepared.arms[0], self.prepared.encoder
        earlier = [self._reference(evolve(group, turn=t), first) for t in range(group.turn)]
        answers = [encoder.decode(row["token_ids"]) for row in earlier if row]
        return encoder.ids(group.talk, group.turn, group.setting.prompt_limit, answers)

    def _reference(self, group: Group, baseline: Arm) -> Row | None:
        """AR's row of a group, once it is known."""
        return self.known.get((group.key, baseline.name))

    def _request(self, task: Task) -> None:
        """Make one request: decode, write, remember."""
        group, run, prompt = task.group, self.runs[task.arm.name], self._prompt(task.group)
        count = group.setting.max_new_tokens
        started, began = utc_now(), Moment.now()
        try:
            seed = self._seed(group)
            decoded = self.engines[task.arm.name].run(run, task.number, prompt, count, seed)
        except ToolkitError as error:
            raise type(error)(
                f"arm {task.arm.name!r} failed on prompt {group.talk.index} of {group.talk.dataset}: "
                f"{error} (finished requests are kept)"
            ) from error
        load = measure_load(began, Moment.now())
        self._write_inside(task, run, decoded.generation)
        row = make_request_row(task, started, decoded, load)
        self.store.write("requests", task.number, [row])
        self._remember(row)

    def _write_inside(self, task: Task, run: Run, generation: Generation | None) -> None:
        """Write the request's steps and nodes, where the plan records them and they are known."""
        for table, rows in (("steps", step_rows), ("nodes", node_rows)):
            if table in self.prepared.plan.record and generation is not None:
                self.store.write(table, task.number, list(rows(run, task.number, generation)))

    def _judge(self, tasks: list[Task]) -> None:
        """Compare the group's requests with AR, once AR's is known, and keep the verdicts."""
        for task in tasks:
            row = self.done.get(task.number)
            baseline = self.prepared.baseline(task.arm)
            reference = self._reference(task.group, baseline)
            if not row or not reference or row is reference or row["verdict"] is not None:
                continue
            row = row | self._compare(row, reference, task, baseline)
            row = row | {
                "against_ar": divide(row["tokens_per_s"], reference["tokens_per_s"]),
            }
            self.store.write("requests", task.number, [row])
            self._remember(row)

    def _seed(self, group: Group) -> int:
        """The seed of a group's sampled tokens, the same for every arm; 0 at temperature 0."""
        if self.prepared.target.sampling.greedy:
            return 0
        key = f"{self.prepared.plan.seed} {group.key.prompt} {group.turn} {group.round}"
        return int.from_bytes(blake2b(key.encode(), digest_size=6).digest())

    def _compare(self, row: Row, reference: Row, task: Task, baseline: Arm) -> Row:
        """The verdict of a request and its count of ties.

        Equal tokens are `exact`, or `inconclusive` where our own loop drafted nothing. AR's own logits
        decide about different ones, as in `toolkit.verify`. Tokens that are drawn by other random
        numbers than AR's are `sampled`, and the row says where they lie in the target's law.
        """
        tokens, pipeline = row["token_ids"], self.prepared.pipelines[baseline.name]
        prompt, seed = self._prompt(task.group), self._seed(task.group)
        if not self.prepared.repeats_ar(task.arm):
            places = place_tokens(pipeline, prompt, tokens, task.number)
            return {"verdict": "sampled", "ties": 0, "places": places}
        if tokens == reference["token_ids"]:
            nothing = row["drafted"] == 0 and row["nodes_mean"] is not None
            return {"verdict": "inconclusive" if nothing else "exact", "ties": 0}
        found = compare_with_ar(pipeline, prompt, tokens, seed=seed)
        cut_short = row["stop_reason"] != "eos" and len(tokens) < row["max_new_tokens"]
        divergent = found.verdict != "tie" or cut_short
        return {"verdict": "divergent" if divergent else "tie", "ties": found.ties}


def _list_tasks(groups: list[Group], arms: list[Arm], number: int) -> Iterator[list[Task]]:
    """The numbered requests of each group; each starts with the next arm, in every round another."""
    for index, group in enumerate(groups):
        shift = (index + group.round) % len(arms)
        order = [*arms[shift:], *arms[:shift]]
        yield [Task(number + place, group, arm, place) for place, arm in enumerate(order)]
        number += len(arms)
