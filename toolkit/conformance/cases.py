"""Cases to decode: Hypothesis strategies for combinations of strategies and their options."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, cast, get_origin

import attrs
import hypothesis.strategies as st

from toolkit.choice import Choice, Strategy, options_of, policies_of
from toolkit.conformance.generators import prompts, samplings
from toolkit.conformance.models import (
    COSTS,
    DRAFT_MODEL,
    EXACT_MODEL,
    FAMILIES,
    POSITIONS,
    noisy,
    tiny,
)
from toolkit.errors import MismatchError
from toolkit.fit import require_fit
from toolkit.interfaces import (
    TOKEN_IDENTICAL,
    Drafter,
    KVPolicy,
    ScorePolicy,
    TreeShaper,
    Verifier,
)
from toolkit.pipeline import Pipeline
from toolkit.registry import Registry
from toolkit.runtime.models.pool import Pool
from toolkit.runtime.models.supported import require_kv_supported
from toolkit.sampling import Sampling

KINDS = ("drafter", "shaper", "verifier", "kv")


@attrs.frozen
class Case:
    """One decoding: a tiny model, its noisy copy, a prompt, and the choices of strategies."""

    family: str
    seed: int
    noise: float
    prompt: tuple[int, ...]
    max_new_tokens: int
    stops: tuple[int, ...]
    drafter: Choice[Drafter]
    shaper: Choice[TreeShaper]
    verifier: Choice[Verifier]
    kv: Choice[KVPolicy]
    draft_kv: Choice[KVPolicy]
    executor: str = "auto"
    sampling: Sampling = Sampling()
    sampling_seed: int = 0

    def __str__(self) -> str:
        specs = (
            f"{self.drafter} {self.shaper} {self.verifier} kv={self.kv} draft_kv={self.draft_kv}"
        )
        model = f"{self.family} {self.seed}, noise {self.noise}, stops {[*self.stops]}"
        if not self.sampling.greedy:
            model += f"; {self.sampling}, seed={self.sampling_seed}"
        return f"{specs}; {model}; {self.max_new_tokens} tokens after {[*self.prompt]}"

    @property
    def untimed(self) -> Case:
        """The case with defaults for the options that make trees depend on the clock."""
        drafter, shaper = without_timed(self.drafter), without_timed(self.shaper)
        return attrs.evolve(self, drafter=drafter, shaper=shaper)

    def pipeline(self, registry: Registry) -> Pipeline:
        """Build the pipeline of this case, with its own pool of models."""
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
            sampling=self.sampling,
            pool=Pool(modules=copies, costs=COSTS, executor=self.executor),
            registry=registry,
        )


def options(cls: type[Strategy], registry: Registry) -> st.SearchStrategy[Choice[Any]]:
    """Choices of a class, with its defaults or with small random values for its options."""
    fields = options_of(cls)
    values = {f.name: _values(f, registry) for f in fields}
    known = {name: value for name, value in values.items() if value is not None}
    named = st.fixed_dictionaries({}, optional=known) | st.fixed_dictionaries(known)
    must = {f.name: DRAFT_MODEL for f in fields if f.metadata.get("model")}
    made = named.map(lambda given: Choice(cls, tuple(_roomy(cls, {**must, **given}).items())))
    resolved = made.filter(_builds).map(lambda choice: registry.resolve(cls.kind, choice))
    return resolved.map(with_tiny_models)


def _roomy(cls: type[Strategy], given: dict[str, Any]) -> dict[str, Any]:
    """Raise a KV budget so that the sinks and recent positions fit into it."""
    values: dict[str, Any] = {f.name: given.get(f.name, f.default) for f in options_of(cls)}
    if cls.kind == "kv" and "budget" in values:
        taken = sum(values.get(name, 0) for name in ("sinks", "recent", "epoch"))
        given["budget"] = taken + values["budget"] % 10
    return given


def _values(field: attrs.Attribute[Any], registry: Registry) -> st.SearchStrategy[Any] | None:
    if field.metadata.get("kind"):
        one = choices(field.metadata["kind"], registry).filter(_shareable)
        several = st.lists(one, min_size=1, max_size=2).map(tuple)
        return several if get_origin(field.type) is tuple else one
    allowed = getattr(field.validator, "options", None)  # of attrs.validators.in_
    if allowed is not None:
        return st.sampled_from(sorted(allowed))
    by_type: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        int: lambda: st.sampled_from([1, 2, 3, 0, 4, 6, 9]),
        float: lambda: st.integers(0, 20).map(lambda twentieths: twentieths / 20),
        bool: st.booleans,
    }
    if field.metadata.get("model") or field.type not in by_type:
        return None
    return by_type[field.type]()


def with_tiny_models(choice: Choice[Any]) -> Choice[Any]:
    """Replace every model that a choice names by the kit's draft model."""

    def tiny(option: attrs.Attribute[Any], value: Any) -> Any:
        if isinstance(value, Choice):
            return with_tiny_models(value)
        return DRAFT_MODEL if option.metadata.get("model") else value

    return choice.map_options(tiny)


def without_timed(choice: Choice[Any]) -> Choice[Any]:
    """Drop the options that make trees depend on the clock."""

    def at_default(option: attrs.Attribute[Any], value: Any) -> Any:
        if isinstance(value, Choice):
            return without_timed(value)
        return option.default if option.metadata.get("timed") else value

    return choice.map_options(at_default)


def _builds(choice: Choice[Any]) -> bool:
    try:
        choice.build()
    except (TypeError, ValueError):
        return False
    return True


def _shareable(choice: Choice[Any]) -> bool:
    return not (issubclass(choice.cls, ScorePolicy) and choice.cls.logs)


def choices(kind: str, registry: Registry) -> st.SearchStrategy[Choice[Any]]:
    """Choices of any registered strategy of a kind, with any options."""
    names = registry.names(kind)
    return st.sampled_from(names).flatmap(lambda n: options(registry.find(kind, n), registry))


def cases(registry: Registry, names: dict[str, str]) -> st.SearchStrategy[Case]:
    """Cases of one combination of names (kind → name), with everything else random."""
    chosen = {kind: options(registry.find(kind, name), registry) for kind, name in names.items()}
    made = st.builds(
        Case,
        family=st.sampled_from(sorted(FAMILIES)),
        seed=st.integers(0, 5),
        noise=st.sampled_from([0.0, 0.01, 0.02, 0.05]),
        prompt=prompts(),
        max_new_tokens=st.integers(1, 32),
        stops=st.sampled_from([(0,), (), (0, 7, 19, 31, 43, 55, 67, 79, 91)]),
        draft_kv=choices("kv", registry),
        executor=st.sampled_from(["auto", "module"]),
        sampling=samplings(),
        sampling_seed=st.integers(0, 9),
        **chosen,
    )
    return made.map(at_its_temperature).filter(lambda case: fits(case, registry))


def at_its_temperature(case: Case) -> Case:
    """The case, with greedy decoding if its verifier is for temperature 0 only."""
    greedy = case.verifier.cls.exactness == "greedy"
    return attrs.evolve(case, sampling=Sampling()) if greedy else case


def fits(case: Case, registry: Registry) -> bool:
    """Whether the family supports every KV policy of the case, and the strategies fit together."""
    try:
        require_fit(case.drafter, case.shaper, case.verifier, registry)
    except MismatchError:
        return False
    policies = case.kv, case.draft_kv, *policies_of(case.drafter)
    return all(works_on(choice, case.family) for choice in policies)


def works_on(policy: Choice[KVPolicy], family: str) -> bool:
    """Whether a family supports a KV policy."""
    try:
        require_kv_supported(policy, Shape(family))
    except MismatchError:
        return False
    return True


@attrs.frozen
class Shape:
    """What `require_kv_supported` needs to know of a family's tiny model."""

    name: str
    positions: int = POSITIONS

    @property
    def config(self) -> Any:
        return FAMILIES[self.name]()


def product(registry: Registry) -> list[dict[str, str]]:
    """Every combination of registered names, one name of each kind, that gives AR's tokens."""
    names = {kind: registry.names(kind) for kind in KINDS}
    names["verifier"] = token_identical(registry)
    every = itertools.product(*names.values())
    return [dict(zip(KINDS, names, strict=True)) for names in every]


def token_identical(registry: Registry) -> list[str]:
    """The registered verifiers that give AR's tokens, by name."""
    names = registry.names("verifier")
    exactness = {n: cast("type[Verifier]", registry.find("verifier", n)).exactness for n in names}
    return [name for name in names if exactness[name] in TOKEN_IDENTICAL]


def pairwise(combinations: list[dict[str, str]]) -> list[dict[str, str]]:
    """A subset of the combinations that contains every pair of names that occurs in them."""
    left = set(itertools.chain.from_iterable(map(_pairs, combinations)))
    cover = []
    while left:
        best = max(combinations, key=lambda combination: len(left & set(_pairs(combination))))
        left -= set(_pairs(best))
        cover.append(best)
    return cover


def _pairs(combination: dict[str, str]) -> Iterable[Any]:
    return itertools.combinations(sorted(combination.items()), 2)
