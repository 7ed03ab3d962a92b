"""Subject: a strategy under test, and everything that the kit builds around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, cast
from unittest.mock import patch

import attrs
import hypothesis.strategies as st

from toolkit.choice import Choice, Kind, Strategy, options_of
from toolkit.conformance import oddities
from toolkit.conformance.generators import Case, fits, options
from toolkit.conformance.models import (
    DRAFT_MODEL,
    EXACT_MODEL,
    FAMILIES,
    POSITIONS,
    VOCABULARY,
    noisy,
    tiny,
)
from toolkit.conformance.parts import hidden_pairs
from toolkit.conformance.strategies import prompts
from toolkit.interfaces import (
    Drafter,
    Exactness,
    MaskPolicy,
    Runtime,
    ScorePolicy,
    Verifier,
)
from toolkit.pipeline import Pipeline, models_of
from toolkit.plugins import OURS
from toolkit.registry import Registry
from toolkit.runtime.draft_runtime import DraftRuntime
from toolkit.runtime.models.pool import Pool
from toolkit.runtime.session import ModelSession
from toolkit.stream import Stream
from toolkit.tree import Candidates, TokenTree

Tally = Counter[str]
LONGEST = 24  # tokens decoded per case


@attrs.frozen
class Subject:
    """A choice to be tested, in a registry that knows its company: the built-ins and oddities."""

    choice: Choice[Any]
    registry: Registry

    @classmethod
    def of(
        cls,
        spec: str | Strategy | type[Strategy] | Choice[Any],
        registry: Registry,
        kind: str | None,
    ) -> Subject:
        """The subject that a spec names. Raises `SpecError`: unknown, or of several kinds."""
        if not isinstance(spec, str):
            given = spec if isinstance(spec, Choice) else Choice.of(spec)
            return cls(_with_tiny_models(registry.resolve(given.cls.kind, given)), registry)
        kind = kind or registry.kind_of(spec.partition(":")[0])
        return cls(_with_tiny_models(registry.resolve(kind, spec)), registry)

    @property
    def kind(self) -> Kind:
        return self.choice.cls.kind

    @property
    def exactness(self) -> Exactness:
        """What a verifier declares; everyone else is under the promise of greedy decoding."""
        cls = self.choice.cls
        return cls.exactness if issubclass(cls, Verifier) else "greedy"

    @property
    def prunes(self) -> bool:
        return self.choice.cls.prunes

    @property
    def models(self) -> bool:
        """Whether it names a model."""
        return bool(models_of(self.choice))

    @property
    def mask(self) -> bool:
        """Whether it is a KV policy that is a mask over positions."""
        return issubclass(self.choice.cls, MaskPolicy)

    def build(self) -> Any:
        """A fresh strategy."""
        return self.choice.build()

    def drafter(self, prompt: list[int], tally: Tally, padded: int = VOCABULARY) -> Proposals:
        """A fresh drafter, started on a prompt, its proposals counted; `padded`: its model's
        vocabulary."""
        model = noisy("llama", 0) if padded == VOCABULARY else tiny("llama", 0, (0,), padded)
        pool = Pool(modules={DRAFT_MODEL: model, EXACT_MODEL: tiny("llama", 0)})
        full = self.registry.resolve("kv", "full")
        target = ModelSession(pool.load(EXACT_MODEL), full.build())
        target.prefill(prompt)
        drafter = Proposals(self.build(), target, tally)
        drafter.start(prompt, DraftRuntime(pool, target, full))
        return drafter

    def session(self, family: str) -> ModelSession:
        """A tiny model under this policy."""
        pool = Pool(modules={"it": tiny(family)})
        return ModelSession(pool.load("it"), self.build())

    def cases(self) -> st.SearchStrategy[Case]:
        """Decodings with this strategy in all kinds of company."""
        company = {kind: self._company(kind) for kind in ("drafter", "shaper", "verifier", "kv")}
        company[self.kind] = st.just(self.choice)
        made = st.builds(
            Case,
            family=st.sampled_from(sorted(FAMILIES)),
            seed=st.integers(0, 2),
            noise=st.sampled_from([0.02, 0.0, 0.05]),
            prompt=prompts().map(self.stretched),
            max_new_tokens=st.integers(1, LONGEST),
            stops=st.sampled_from([(0,), (), (0, 7, 19, 31, 43, 55, 67, 79, 91)]),
            draft_kv=st.just(Choice(self.registry.find("kv", "full"))) | self._company("kv"),
            **company,
        )
        return made.filter(fits)

    @property
    def budget(self) -> int:
        """How many positions a KV policy keeps; 0 for what has no budget."""
        return getattr(self.build(), "budget", 0) if self.kind == "kv" else 0

    @property
    def scores(self) -> bool:
        """Whether it is a KV policy that scores."""
        return issubclass(self.choice.cls, ScorePolicy)

    def stretched(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """A prompt that is longer than what a KV policy keeps, where that is possible."""
        length = min(len(ids) + self.budget, POSITIONS - 2 * LONGEST)
        return tuple(ids[i % len(ids)] for i in range(max(len(ids), length)))

    def _company(self, kind: str) -> st.SearchStrategy[Choice[Any]]:
        """Built-ins with any options, model drafters above all, and oddities."""
        ours = [e.cls for (k, _), e in sorted(self.registry.entries.items())
                if k == kind and e.distribution == OURS]  # fmt: skip
        if kind == "verifier":
            ours = [c for c in ours if cast("type[Verifier]", c).exactness == "greedy"]
        odd = {
            "drafter": oddities.DRAFTERS,
            "shaper": oddities.SHAPERS,
            "verifier": oddities.VERIFIERS,
            "kv": oddities.POLICIES,
        }[kind]
        if self.kind == "drafter":  # a tree that it had no part in would speak for it
            odd = tuple(cls for cls in odd if cls is not oddities.Wild)
        usual = st.sampled_from(ours).flatmap(lambda cls: options(cls, self.registry))
        strange = st.sampled_from(odd).map(Choice)
        if kind != "drafter":
            return usual | strange
        model = self.registry.resolve("drafter", f"model:{DRAFT_MODEL}")
        return st.just(model) | usual | strange

    @contextmanager
    def watched(self, tally: Tally) -> Iterator[None]:
        """Count what comes up in every request that is decoded meanwhile."""
        streams: list[Stream] = []
        honest = Pipeline.stream

        def stream(pipeline: Pipeline, *args: Any, **options: Any) -> Stream:
            streams.append(honest(pipeline, *args, **options))
            return streams[-1]

        with patch.object(Pipeline, "stream", stream):
            yield
        for seen in streams:
            steps = [event.step for event in seen.events if event.step]
            tally["drafted"] += sum(step.nodes - 1 for step in steps)
            tally["accepted"] += sum(step.accepted for step in steps)
            tally["rejected"] += sum(step.nodes - 1 - step.accepted for step in steps)
            tally["hidden"] += hidden(seen)


@attrs.define(eq=False)
class Proposals(Drafter):
    """A drafter whose proposals are counted, and whose target commits what it is told of."""

    name = "proposals"
    drafter: Drafter
    target: ModelSession
    tally: Tally

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        self.drafter.start(prompt, runtime)

    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        answer = self.drafter.expand(tree, frontier, k)
        self.tally["drafted"] += sum(p > -inf for row in answer.logprobs for p in row)
        return answer

    def commit(self, tokens: list[int]) -> None:
        rows = list(range(len(tokens)))
        self.target.forward(tokens, [row - 1 for row in rows])
        self.target.commit(rows)
        self.drafter.commit(tokens)


def hidden(stream: Stream) -> int:
    """How much of what was committed the target's KV policy has hidden in a request."""
    policy, length = stream.target.policy, stream.target.length
    pairs = hidden_pairs(policy, length) if isinstance(policy, MaskPolicy) and length else 0
    return pairs + stream.target.cache.evicted


def _with_tiny_models(choice: Choice[Any]) -> Choice[Any]:
    """The choice with every model that it names replaced by the kit's own."""
    given = dict(choice.options)
    for option in options_of(choice.cls):
        value = choice[option.name]
        if isinstance(value, Choice):
            given[option.name] = _with_tiny_models(value)
        elif option.metadata.get("model"):
            given[option.name] = DRAFT_MODEL
    return Choice(choice.cls, tuple(given.items()))
