"""The strategy under test, and what the kit builds around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import inf
from typing import Any, cast
from unittest.mock import patch

import attrs
import hypothesis.strategies as st

from toolkit.choice import Choice, Kind, Strategy, models_of
from toolkit.conformance import edge_cases
from toolkit.conformance.cases import Case, at_its_temperature, fits, options, with_tiny_models
from toolkit.conformance.generators import prompts, samplings
from toolkit.conformance.models import (
    DRAFT_MODEL,
    EXACT_MODEL,
    FAMILIES,
    POSITIONS,
    VOCABULARY,
    noisy,
    tiny,
)
from toolkit.conformance.properties.masks import hidden_pairs
from toolkit.interfaces import (
    TOKEN_IDENTICAL,
    Drafter,
    Exactness,
    MaskPolicy,
    Runtime,
    ScorePolicy,
    Verifier,
)
from toolkit.pipeline import Pipeline
from toolkit.plugins import OURS
from toolkit.registry import Registry
from toolkit.runtime.draft_runtime import DraftRuntime
from toolkit.runtime.models.pool import Pool
from toolkit.runtime.session import ModelSession
from toolkit.stream import Stream
from toolkit.tree import Candidates, TokenTree

Tally = Counter[str]  # what examples contained: drafted, accepted, rejected, hidden
LONGEST = 24  # most tokens decoded per case


@lru_cache(maxsize=32)
def models_of_family(family: str, padded: int = VOCABULARY) -> Pool:
    """A tiny model and a draft model with a vocabulary of `padded`. Examples share them, because
    choosing what runs a model takes longer than most examples."""
    draft = noisy(family) if padded == VOCABULARY else tiny(family, 0, (0,), padded)
    return Pool(modules={DRAFT_MODEL: draft, EXACT_MODEL: tiny(family)})


@attrs.frozen
class UnderTest:
    """A choice to test, and the registry that has the strategies it is combined with."""

    choice: Choice[Any]
    registry: Registry

    @classmethod
    def of(
        cls,
        spec: str | Strategy | type[Strategy] | Choice[Any],
        registry: Registry,
        kind: str | None,
    ) -> UnderTest:
        """Resolve a spec. Raises `SpecError` for an unknown name, or a name of several kinds."""
        if not isinstance(spec, str):
            given = spec if isinstance(spec, Choice) else Choice.of(spec)
            return cls(with_tiny_models(registry.resolve(given.cls.kind, given)), registry)
        kind = kind or registry.kind_of(spec.partition(":")[0])
        return cls(with_tiny_models(registry.resolve(kind, spec)), registry)

    @property
    def kind(self) -> Kind:
        return self.choice.cls.kind

    @property
    def exactness(self) -> Exactness:
        """What a verifier declares; 'greedy' for all other kinds."""
        cls = self.choice.cls
        return cls.exactness if issubclass(cls, Verifier) else "greedy"

    @property
    def prunes(self) -> bool:
        return self.choice.cls.prunes

    @property
    def models(self) -> bool:
        """Whether its options name a model."""
        return bool(models_of(self.choice))

    @property
    def mask(self) -> bool:
        """Whether it is a KV policy with a mask over positions."""
        return issubclass(self.choice.cls, MaskPolicy)

    def build(self) -> Any:
        """Build a new strategy object."""
        return self.choice.build()

    def drafter(self, prompt: list[int], tally: Tally, padded: int = VOCABULARY) -> CountedDrafter:
        """Build a drafter and start it on a prompt; `tally` counts its proposals.

        `padded` is the vocabulary of the draft model, padding included.
        """
        pool, full = models_of_family("llama", padded), self.registry.resolve("kv", "full")
        target = ModelSession(pool.load(EXACT_MODEL), full.build())
        target.prefill(prompt)
        drafter = CountedDrafter(self.build(), target, tally)
        drafter.start(prompt, DraftRuntime(pool, target, full))
        return drafter

    def session(self, family: str) -> ModelSession:
        """Open a session of a tiny model under this KV policy."""
        return ModelSession(models_of_family(family).load(EXACT_MODEL), self.build())

    def cases(self) -> st.SearchStrategy[Case]:
        """Cases that combine this strategy with all kinds of others."""
        partners = {kind: self._partners(kind) for kind in ("drafter", "shaper", "verifier", "kv")}
        partners[self.kind] = st.just(self.choice)
        made = st.builds(
            Case,
            family=st.sampled_from(sorted(FAMILIES)),
            seed=st.integers(0, 2),
            noise=st.sampled_from([0.02, 0.0, 0.05]),
            prompt=prompts().map(self.stretch),
            max_new_tokens=st.integers(1, LONGEST),
            stops=st.sampled_from([(0,), (), (0, 7, 19, 31, 43, 55, 67, 79, 91)]),
            draft_kv=st.just(Choice(self.registry.find("kv", "full"))) | self._partners("kv"),
            sampling=samplings(),
            sampling_seed=st.integers(0, 9),
            **partners,
        )
        return made.map(at_its_temperature).filter(lambda case: fits(case, self.registry))

    @property
    def budget(self) -> int:
        """The budget of a KV policy, in positions; 0 for all other strategies."""
        return getattr(self.build(), "budget", 0) if self.kind == "kv" else 0

    @property
    def scores(self) -> bool:
        """Whether it is a KV policy that scores positions."""
        return issubclass(self.choice.cls, ScorePolicy)

    def stretch(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Repeat a prompt until it is longer than the budget, as far as positions allow."""
        length = min(len(ids) + self.budget, POSITIONS - 2 * LONGEST)
        return tuple(ids[i % len(ids)] for i in range(max(len(ids), length)))

    def _partners(self, kind: str) -> st.SearchStrategy[Choice[Any]]:
        """Choices to combine it with: built-ins with any options, and edge cases.

        A third of the drafters are model drafters.
        """
        ours = [e.cls for (k, _), e in sorted(self.registry.entries.items())
                if k == kind and e.distribution == OURS]  # fmt: skip
        if kind == "verifier":
            ours = [c for c in ours if cast("type[Verifier]", c).exactness in TOKEN_IDENTICAL]
        edges = {
            "drafter": edge_cases.DRAFTERS,
            "shaper": edge_cases.SHAPERS,
            "verifier": edge_cases.VERIFIERS,
            "kv": edge_cases.POLICIES,
        }[kind]
        if self.kind == "drafter":  # its trees ignore the drafter, so they would not test it
            edges = tuple(cls for cls in edges if cls is not edge_cases.Wild)
        usual = st.sampled_from(ours).flatmap(lambda cls: options(cls, self.registry))
        extreme = st.sampled_from(edges).map(Choice)
        if kind != "drafter":
            return usual | extreme
        model = self.registry.resolve("drafter", f"model:{DRAFT_MODEL}")
        return st.just(model) | usual | extreme

    @contextmanager
    def counting(self, tally: Tally) -> Iterator[None]:
        """Count what happens in every request that is decoded in this context."""
        streams: list[Stream] = []
        original = Pipeline.stream

        def stream(pipeline: Pipeline, *args: Any, **options: Any) -> Stream:
            streams.append(original(pipeline, *args, **options))
            return streams[-1]

        with patch.object(Pipeline, "stream", stream):
            yield
        for decoded in streams:
            steps = [event.step for event in decoded.events if event.step]
            tally["drafted"] += sum(step.nodes - 1 for step in steps)
            tally["accepted"] += sum(step.accepted for step in steps)
            tally["rejected"] += sum(step.nodes - 1 - step.accepted for step in steps)
            tally["hidden"] += count_hidden(decoded)


@attrs.define(eq=False)
class CountedDrafter(Drafter):
    """A drafter whose proposals are counted, with a target that commits the same tokens."""

    name = "counted"
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


def count_hidden(stream: Stream) -> int:
    """Count what the target's KV policy hid: masked (query, key) pairs and evicted rows."""
    policy, length = stream.target.policy, stream.target.length
    pairs = hidden_pairs(policy, length) if isinstance(policy, MaskPolicy) and length else 0
    return pairs + stream.target.cache.evicted
