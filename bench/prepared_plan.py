"""A prepared: a plan made ready. Everything that can be refused is refused here, without weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import Factory, asdict, define, evolve, frozen

from toolkit import Pipeline, Pool, Registry, Source, ToolkitError
from toolkit.words import cut

from .arms import PARTS, Arm, arms_of
from .columns import Split
from .dataset_loading import is_there, local
from .plan import Plan, digest
from .prompts import Encoder, Talk, sampled
from .tuning import candidates


@frozen
class Setting:
    """What stays equal within a comparison, the prompt apart."""

    dataset: str
    prompt_limit: int
    max_new_tokens: int


@frozen
class Group:
    """One turn of one prompt under one setting: what the arms are paired over."""

    split: Split
    setting: Setting
    talk: Talk
    turn: int


@frozen
class Task:
    """One request to be made. Its number is its part file's and its row's."""

    number: int
    group: Group
    arm: Arm
    order: int


@define(eq=False)
class PreparedPlan:
    """Arms with their pipelines, and prompts of every data set, sampled and split."""

    plan: Plan
    arms: list[Arm]
    pipelines: dict[str, Pipeline]
    sources: dict[str, Source]
    talks: dict[str, dict[Split, list[Talk]]]
    trials: dict[str, list[Arm]] = Factory(dict)
    """Arm to be tuned → its candidates."""

    @classmethod
    def of(cls, plan: Plan, registry: Registry) -> PreparedPlan:
        """Check and prepare a plan, what is cheap to know first. Raises `ToolkitError`."""
        arms = arms_of(plan.arms)
        for arm in arms:
            require_known(arm, registry)
        trials = candidates(plan.tune, arms, registry)
        sources = {name: found(name, registry) for name in plan.datasets}
        pool = Pool(device=plan.device, dtype=plan.dtype)
        if plan.target is None:  # the usual one of the first arm's drafter
            first = next((arm for arm in arms if arm.specs.get("drafter") != "none"), arms[0])
            plan = evolve(plan, target=pipeline_of(first, plan, pool, registry).target)
        every = [*arms, *(arm for found in trials.values() for arm in found)]
        pipelines = {arm.name: pipeline_of(arm, plan, pool, registry) for arm in every}
        kept = {name: source for name, (source, _) in sources.items()}
        prepared = cls(plan, arms, pipelines, kept, {}, trials)
        for name, (source, chat) in sources.items():
            prepared._add(name, source, chat)
        return prepared

    @property
    def target(self) -> Pipeline:
        """AR of the plain target: the first arm."""
        return self.pipelines[self.arms[0].name]

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.target.pool.find(self.target.target).tokenizer)

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

    def lossless(self, arm: Arm) -> bool:
        """Whether its tokens must be AR's."""
        verifier: Any = self.pipelines[arm.name].verifier.cls
        return not arm.lossy and verifier.exactness == "greedy"

    def groups(self, split: Split) -> Iterator[Group]:
        """Groups of a split: by data set and prompt, then the settings, then the turns."""
        for dataset in self.plan.datasets:
            for talk in self.talks[dataset][split]:
                for setting in self.settings:
                    if setting.dataset == dataset:
                        for turn in range(len(talk.turns)):
                            yield Group(split, setting, talk, turn)

    def configuration(self, environment: dict[str, Any]) -> str:
        """The digest of all that must be equal for results to be put side by side."""
        talks = {
            name: [asdict(talk) for found in splits.values() for talk in found]
            for name, splits in self.talks.items()
        }
        return digest({"plan": asdict(self.plan), "talks": talks, "environment": environment})

    def _add(self, name: str, source: Source, chat: bool) -> None:
        """Sample a data set, and see that its prompts fit the target."""
        plan, encoder = self.plan, self.encoder
        if encoder.tokenizer is None:
            raise ToolkitError(f"target {self.target.target!r} has no tokenizer: prompts are text")
        held = max((tune.prompts for tune in plan.tune), default=0)
        longest = max(plan.prompt_tokens)

        def long_enough(turns: Any) -> bool:
            """Prompts that are compared at several lengths must have them."""
            return len(plan.prompt_tokens) == 1 or len(encoder.cut(turns[0], longest)) == longest

        rows = sampled(name, source.conversations, plan.prompts + held, plan.seed, long_enough)
        talks = [Talk(name, index, tuple(turns), chat) for index, turns in rows]
        for talk in talks:
            self._fits(talk)
        self.talks[name] = {"tune": talks[:held], "test": talks[held:], "drift": talks[held:][:5]}

    def _fits(self, talk: Talk) -> None:
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
                f"{self.target.target!r} has {positions}: lower --prompt-tokens or --max-new-tokens"
            )


@contextmanager
def _naming(arm: Arm) -> Iterator[None]:
    """Errors begin with the arm's name."""
    try:
        yield
    except ToolkitError as error:
        raise type(error)(f"arm {cut(arm.name)}: {error}") from error


def require_known(arm: Arm, registry: Registry) -> None:
    """Raise `ToolkitError` when an arm names a strategy or an option that there is not: names are
    known before torch and transformers are imported."""
    with _naming(arm):
        for part, spec in arm.specs.items():
            if part in PARTS:
                registry.resolve("kv" if part == "draft_kv" else part, spec)


def pipeline_of(arm: Arm, plan: Plan, pool: Pool, registry: Registry) -> Pipeline:
    """The arm's pipeline; for Hugging Face's arms the one that finds their models."""
    specs = arm.specs
    if arm.engine == "hf:assisted":
        specs = {"drafter": specs.get("drafter", "model")}
    elif arm.engine != "toolkit":
        specs = {"drafter": "none", "shaper": "chain"}
    given: dict[str, Any] = dict(specs)
    with _naming(arm):
        made = Pipeline(
            plan.target, pool=pool, registry=registry, ignore_eos=plan.ignore_eos, **given
        )
    if arm.engine == "hf:assisted" and made.drafter.cls.name != "model":
        raise ToolkitError(f"arm {arm.name!r}: its drafter is the assistant, a model: name one")
    return made


def found(name: str, registry: Registry) -> tuple[Source, bool]:
    """A data set by name, by name and place, or by a path and column. Raises `ToolkitError`."""
    head, _, rest = name.partition(":")
    if head in registry.datasets:
        dataset = registry.datasets[head]
        return dataset.load(rest or None), dataset.chat
    path, _, column = name.rpartition(":") if ":" in name else (name, "", "")
    if is_there(Path(name)) or is_there(Path(path)) or "." in name or "/" in name:
        whole = is_there(Path(name)) or not path
        return local(Path(name if whole else path), None if whole else column), False
    known = sorted(registry.datasets)
    near = difflib.get_close_matches(head, known, 2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    failed = f" (did not load: {'; '.join(registry.broken)})" if registry.broken else ""
    raise ToolkitError(
        f"no data set called {cut(name)}: {hint}; a file of your own is FILE:COLUMN (.jsonl, .parquet) "
        f"or FILE.txt{failed}"
    )
