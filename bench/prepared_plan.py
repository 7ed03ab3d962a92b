"""A plan that is checked and loaded: the pipelines of its arms, the prompts of its data sets.

Everything that can be rejected is rejected here, before weights load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve, frozen

from toolkit import Pipeline, Pool, Registry, Source, ToolkitError
from toolkit.words import did_you_mean, quote

from .arms import PARTS, Arm, parse_arms
from .columns import Split
from .dataset_loading import path_exists, read_local
from .keys import Key, Setting
from .plan import Plan
from .prompts import Encoder, Talk, sample_conversations
from .tuning import list_candidates


@frozen
class Group:
    """One turn of one prompt under one setting in one round: every arm decodes it."""

    split: Split
    setting: Setting
    talk: Talk
    turn: int
    round: int

    @property
    def key(self) -> Key:
        """What its requests have in common."""
        return Key(self.setting, self.talk.index, self.turn, self.round)


@frozen
class Task:
    """One request to make. `number` names its part file and row, `place` its arm's position among
    those on the same prompt."""

    number: int
    group: Group
    arm: Arm
    place: int


@define(eq=False)
class PreparedPlan:
    """A plan with the pipelines of its arms and the prompts of its data sets, sampled and split."""

    plan: Plan
    arms: list[Arm]
    pipelines: dict[str, Pipeline]
    sources: dict[str, Source]
    talks: dict[str, dict[Split, list[Talk]]]
    trials: dict[str, list[Arm]] = Factory(dict)
    """The candidates of every arm to tune, by its name."""

    @classmethod
    def of(cls, plan: Plan, registry: Registry) -> PreparedPlan:
        """Check and prepare a plan, cheap checks first. Raises `ToolkitError`."""
        arms = parse_arms(plan.arms)
        for arm in arms:
            require_known(arm, registry)
        trials = list_candidates(plan.tune, arms, registry)
        sources = {name: load_dataset(name, registry) for name in plan.datasets}
        pool = Pool(device=plan.device, dtype=plan.dtype, executor=plan.executor)
        if plan.target is None:  # the usual target of the first arm's drafter
            first = next((arm for arm in arms if arm.specs.get("drafter") != "none"), arms[0])
            plan = evolve(plan, target=make_pipeline(first, plan, pool, registry).target)
        every = [*arms, *(arm for found in trials.values() for arm in found)]
        pipelines = {arm.name: make_pipeline(arm, plan, pool, registry) for arm in every}
        loaded = {name: source for name, (source, _) in sources.items()}
        prepared = cls(plan, arms, pipelines, loaded, {}, trials)
        for name, (source, chat) in sources.items():
            prepared._sample(name, source, chat)
        return prepared

    @property
    def target(self) -> Pipeline:
        """The pipeline of the first arm: AR under the full cache."""
        return self.pipelines[self.arms[0].name]

    @property
    def encoder(self) -> Encoder:
        return Encoder.of(self.target)

    @property
    def settings(self) -> list[Setting]:
        plan = self.plan
        return [
            Setting(dataset, limit, count)
            for dataset in plan.datasets
            for limit in plan.prompt_tokens
            for count in plan.max_new_tokens
        ]

    def baseline(self, arm: Arm) -> Arm:
        """The AR arm of the same KV policy."""
        kv = str(self.pipelines[arm.name].kv)
        return next(a for a in self.arms if str(self.pipelines[a.name].kv) == kv)

    def is_lossless(self, arm: Arm) -> bool:
        """Whether its tokens must be AR's, or have their law."""
        verifier: Any = self.pipelines[arm.name].verifier.cls
        return not arm.lossy and verifier.exactness != "lossy"

    def repeats_ar(self, arm: Arm) -> bool:
        """Whether its tokens should be those that AR gives with the same seed."""
        if self.target.sampling.greedy:  # a law is one token
            return True
        verifier: Any = self.pipelines[arm.name].verifier.cls
        return arm.engine == "toolkit" and verifier.exactness == "token"

    def groups(self, split: Split) -> Iterator[Group]:
        """The groups of a split: by round, data set, prompt, setting and turn. Tuning has one round."""
        rounds = range(1 if split == "tune" else self.plan.rounds)
        for number, dataset in product(rounds, self.plan.datasets):
            for talk, setting in product(self.talks[dataset][split], self.settings):
                if setting.dataset == dataset:
                    for turn in range(len(talk.turns)):
                        yield Group(split, setting, talk, turn, number)

    def _sample(self, name: str, source: Source, chat: bool) -> None:
        """Sample a data set. Raises `ToolkitError` when a prompt does not fit the target."""
        plan, encoder = self.plan, self.encoder
        if encoder.tokenizer is None:
            raise ToolkitError(f"target {self.target.target!r} has no tokenizer: prompts are text")
        held = max((tune.prompts for tune in plan.tune), default=0)
        longest = max(plan.prompt_tokens)

        def long_enough(turns: Any) -> bool:
            """Whether a prompt has the greatest of several lengths, so that all can be compared."""
            return len(plan.prompt_tokens) == 1 or len(encoder.cut(turns[0], longest)) == longest

        rows = sample_conversations(
            name, source.conversations, plan.prompts + held, plan.seed, long_enough
        )
        talks = [Talk(name, index, tuple(turns), chat) for index, turns in rows]
        for talk in talks:
            self._require_room(talk)
        self.talks[name] = {"tune": talks[:held], "test": talks[held:], "drift": talks[held:][:5]}

    def _require_room(self, talk: Talk) -> None:
        encoder, longest = self.encoder, max(self.plan.prompt_tokens)
        count = max(self.plan.max_new_tokens)
        answers = [""] * (len(talk.turns) - 1)
        prompt = len(encoder.ids(talk, len(talk.turns) - 1, longest, answers))
        needed = prompt + count * len(talk.turns) - 1
        positions = self.target.pool.find(self.target.target).positions
        if needed > positions:
            raise ToolkitError(
                f"prompt {talk.index} of data set {talk.dataset} has {prompt} tokens, and with "
                f"{count} new ones per turn needs {needed} positions, but target "
                f"{self.target.target!r} has {positions}: shorten the prompts or decode fewer tokens"
            )


@contextmanager
def _naming(arm: Arm) -> Iterator[None]:
    """Put the arm's name before an error."""
    try:
        yield
    except ToolkitError as error:
        raise type(error)(f"arm {quote(arm.name)}: {error}") from error


def require_known(arm: Arm, registry: Registry) -> None:
    """Raise `ToolkitError` when an arm names an unknown strategy or option.

    This needs neither torch nor transformers.
    """
    with _naming(arm):
        for part, spec in arm.specs.items():
            if part in PARTS:
                registry.resolve("kv" if part == "draft_kv" else part, spec)


def make_pipeline(arm: Arm, plan: Plan, pool: Pool, registry: Registry) -> Pipeline:
    """The arm's pipeline; for an arm of Hugging Face's, one that finds its models."""
    specs = arm.specs
    if arm.engine == "hf:assisted":
        specs = {"drafter": specs.get("drafter", "model")}
    elif arm.engine != "toolkit":
        specs = {"drafter": "none", "shaper": "chain"}
    given: dict[str, Any] = dict(specs)
    with _naming(arm):
        made = Pipeline(
            plan.target,
            pool=pool,
            registry=registry,
            ignore_eos=plan.ignore_eos,
            sampling=plan.sampling,
            **given,
        )
    if arm.engine != "toolkit" and made.defaults.stop:
        raise ToolkitError(
            f"arm {arm.name!r} does not stop exactly at the stop_strings of the target's generation "
            f"config: leave the arm out, or give --ignore-eos"
        )
    if arm.engine == "hf:assisted" and made.drafter.cls.name != "model":
        raise ToolkitError(f"arm {arm.name!r}: its drafter is the assistant: name a model")
    return made


def load_dataset(name: str, registry: Registry) -> tuple[Source, bool]:
    """Load NAME, NAME:LOCATION or FILE:COLUMN, and say whether it is chat. Raises `ToolkitError`."""
    head, _, rest = name.partition(":")
    if head in registry.datasets:
        dataset = registry.datasets[head]
        return dataset.load(rest or None), dataset.chat
    path, _, column = name.rpartition(":") if ":" in name else (name, "", "")
    if path_exists(Path(name)) or path_exists(Path(path)) or "." in name or "/" in name:
        whole = path_exists(Path(name)) or not path
        return read_local(Path(name if whole else path), None if whole else column), False
    known = sorted(registry.datasets)
    hint = did_you_mean(head, known, f"there are {', '.join(known)}")
    failed = f" (did not load: {'; '.join(registry.broken)})" if registry.broken else ""
    raise ToolkitError(
        f"no data set called {quote(name)}: {hint}; a file of your own is FILE:COLUMN (.jsonl, "
        f".parquet) or FILE.txt{failed}"
    )
