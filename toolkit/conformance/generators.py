"""Hypothesis strategies: combinations of registered strategies, their options, cases to decode."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import hypothesis.strategies as st

from toolkit.conformance.models import DRAFT_MODEL, EXACT_MODEL, FAMILIES, noisy, tiny
from toolkit.conformance.strategies import prompts
from toolkit.interfaces import Strategy
from toolkit.pipeline import Pipeline
from toolkit.registry import Registry
from toolkit.runtime.pool import Pool
from toolkit.spec import Choice, options_of

KINDS = ("drafter", "shaper", "verifier", "kv")


@attrs.frozen
class Case:
    """One decoding to try: a tiny model, its noisy copy, a prompt, and choices."""

    family: str
    seed: int
    noise: float
    prompt: tuple[int, ...]
    max_new_tokens: int
    stops: tuple[int, ...]
    drafter: Choice
    shaper: Choice
    verifier: Choice
    kv: Choice
    draft_kv: Choice

    def __str__(self) -> str:
        specs = (
            f"{self.drafter} {self.shaper} {self.verifier} kv={self.kv} draft_kv={self.draft_kv}"
        )
        model = f"{self.family} {self.seed}, noise {self.noise}, stops {[*self.stops]}"
        return f"{specs}; {model}; {self.max_new_tokens} tokens after {[*self.prompt]}"

    def pipeline(self, registry: Registry) -> Pipeline:
        """The pipeline of this case, with models of its own pool."""
        copies = {
            DRAFT_MODEL: noisy(self.family, self.seed, self.noise),
            EXACT_MODEL: noisy(self.family, self.seed, 0.0),
        }
        return Pipeline(
            tiny(self.family, self.seed, self.stops),
            drafter=self.drafter,
            shaper=self.shaper,
            verifier=self.verifier,
            kv=self.kv,
            draft_kv=self.draft_kv,
            pool=Pool(modules=copies),
            registry=registry,
        )


def options(cls: type[Strategy], registry: Registry) -> st.SearchStrategy[Choice]:
    """A class with its defaults, or with small random values for its options."""
    fields = options_of(cls)
    values = {f.name: _values(f, registry) for f in fields}
    named = st.fixed_dictionaries({}, optional={k: v for k, v in values.items() if v is not None})
    must = {f.name: DRAFT_MODEL for f in fields if f.metadata.get("model")}
    return named.map(lambda given: Choice(cls, tuple({**must, **given}.items()))).filter(_builds)


def _values(field: attrs.Attribute[Any], registry: Registry) -> st.SearchStrategy[Any] | None:
    if field.metadata.get("kind"):
        return choices(field.metadata["kind"], registry)
    by_type: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        int: lambda: st.integers(1, 9),
        float: lambda: st.integers(0, 20).map(lambda twentieths: twentieths / 20),
        bool: st.booleans,
    }
    if field.metadata.get("model") or field.type not in by_type:
        return None
    return by_type[field.type]()


def _builds(choice: Choice) -> bool:
    try:
        choice.build()
    except (TypeError, ValueError):
        return False
    return True


def choices(kind: str, registry: Registry) -> st.SearchStrategy[Choice]:
    """Any registered strategy of a kind, with any options."""
    names = registry.names(kind)
    return st.sampled_from(names).flatmap(lambda n: options(registry.find(kind, n), registry))


def cases(registry: Registry, names: dict[str, str]) -> st.SearchStrategy[Case]:
    """Cases of one combination of names (by kind), everything else random."""
    chosen = {kind: options(registry.find(kind, name), registry) for kind, name in names.items()}
    return st.builds(
        Case,
        family=st.sampled_from(sorted(FAMILIES)),
        seed=st.integers(0, 5),
        noise=st.sampled_from([0.0, 0.01, 0.02, 0.05]),
        prompt=prompts(),
        max_new_tokens=st.integers(1, 32),
        stops=st.sampled_from([(0,), (), (0, 7, 19, 31, 43, 55, 67, 79, 91)]),
        draft_kv=choices("kv", registry),
        **chosen,
    )


def product(registry: Registry) -> list[dict[str, str]]:
    """Every combination of registered names, one of each kind."""
    every = itertools.product(*(registry.names(kind) for kind in KINDS))
    return [dict(zip(KINDS, names, strict=True)) for names in every]


def pairwise(combinations: list[dict[str, str]]) -> list[dict[str, str]]:
    """Some of the combinations that together hold every pair of names that any of them holds."""
    left = set(itertools.chain.from_iterable(map(_pairs, combinations)))
    cover = []
    while left:
        best = max(combinations, key=lambda combination: len(left & set(_pairs(combination))))
        left -= set(_pairs(best))
        cover.append(best)
    return cover


def _pairs(combination: dict[str, str]) -> Iterable[Any]:
    return itertools.combinations(sorted(combination.items()), 2)
