"""A choice of a strategy, before it is built: its class, and values for its options."""

from __future__ import annotations

import sys
import types
from abc import ABC
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_type_hints

import attrs

Kind = Literal["drafter", "shaper", "verifier", "kv", "scorer", "policy"]


class Strategy(ABC):
    """What the four interfaces share: a name, a kind, and options that are attrs fields."""

    name: ClassVar[str]
    kind: ClassVar[Kind]


S_co = TypeVar("S_co", bound=Strategy, covariant=True)


@attrs.frozen
class Choice(Generic[S_co]):
    """A strategy class and values for its options. It has no state; `str` gives its spec.

    `build` makes a fresh strategy, one for each request.
    """

    cls: type[S_co]
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, strategy: S_co | type[S_co]) -> Choice[S_co]:
        """Make the choice of a strategy's class with its non-default options."""
        if isinstance(strategy, type):
            return cls(strategy)
        given = ((f.name, getattr(strategy, f.name)) for f in options_of(type(strategy)))
        defaults = {f.name: f.default for f in options_of(type(strategy))}
        return cls(type(strategy), tuple((k, v) for k, v in given if v != defaults[k]))

    def build(self) -> S_co:
        """Build a fresh strategy."""
        return self.cls(**dict(self.options))

    @property
    def nested(self) -> list[Choice[Any]]:
        """The choices among the options' values, as in `self:kv=[…]`, in order."""
        values = (self[field.name] for field in options_of(self.cls))
        return [part for value in values for part in _parts(value) if isinstance(part, Choice)]

    @property
    def is_synthetic(self) -> bool:
        """Whether it is no real drafter, or holds one that is not: what that does before a request is
        in no figure (`Drafter.counts_start`)."""
        own = not getattr(self.cls, "counts_start", True)
        return own or any(choice.is_synthetic for choice in self.nested)

    def map_options(self, change: Callable[[attrs.Attribute[Any], Any], Any]) -> Choice[S_co]:
        """This choice with every option's value, its default included, put through `change`: a value
        of several strategies one by one."""
        given = dict(self.options)
        for field in options_of(self.cls):
            value, each = self[field.name], bool(field.metadata.get("kind"))
            several = each and isinstance(value, tuple)
            new = tuple(change(field, v) for v in value) if several else change(field, value)
            if new is not value and new != value:
                given[field.name] = new
        return attrs.evolve(self, options=tuple(given.items()))

    def __getitem__(self, name: str) -> Any:
        """The value that option `name` will have."""
        field = next(f for f in options_of(self.cls) if f.name == name)
        return dict(self.options).get(name, field.default)

    def __str__(self) -> str:
        parts = [f"{key}={format_value(value)}" for key, value in self.options]
        if self.options and self._starts_bare():
            parts[0] = parts[0].partition("=")[2]
        return self.cls.name + (":" if parts else "") + ",".join(parts)

    def _starts_bare(self) -> bool:
        """Whether the spec starts with a bare model name, as in `model:pythia-70m`."""
        (name, value), first = self.options[0], options_of(self.cls)[0]
        return name == first.name and bool(first.metadata.get("model")) and "=" not in value


def options_of(cls: Any) -> list[attrs.Attribute[Any]]:
    """The attrs fields of a strategy class that are options, in order, with resolved types."""
    return _options_of(cls)


@lru_cache(maxsize=1024)
def _options_of(cls: Any) -> list[attrs.Attribute[Any]]:
    # Private fields are left out: their types may exist for type checkers only.
    fields = [f for f in attrs.fields(cls) if f.init]
    holder = types.SimpleNamespace(__annotations__={f.name: f.type for f in fields})
    known = get_type_hints(holder, vars(sys.modules[cls.__module__]))
    return [f.evolve(type=known[f.name]) for f in fields]


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def needs_options(cls: type[Strategy]) -> bool:
    """Whether the strategy has an option without a default."""
    return any(f.default is attrs.NOTHING for f in options_of(cls))


def format_value(value: Any) -> str:
    """Format a value as it is written in a spec."""
    if isinstance(value, Choice):
        return f"[{value}]"
    if isinstance(value, tuple):
        numbers = all(isinstance(part, int) for part in value)
        return "x".join(map(str, value)) if numbers else "+".join(f"[{part}]" for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and any(sign in value for sign in ",[]"):
        return f"[{value}]"
    return str(value)


def policies_of(choice: Choice[Any]) -> list[Choice[Any]]:
    """KV policies among a choice's options, nested choices included."""
    own = [value for value in choice.nested if value.cls.kind == "kv"]
    return own + [policy for value in choice.nested for policy in policies_of(value)]


def models_of(choice: Choice[Any]) -> list[str]:
    """Every model that a choice's options name, nested choices included."""
    return list(dict.fromkeys(name for name, _ in models_named(choice)))


def models_named(choice: Choice[Any]) -> list[tuple[str, bool]]:
    """As `models_of`, each with whether it may have another tokenizer than the target."""
    options = [option for option in options_of(choice.cls) if option.metadata.get("model")]
    own = [
        (choice[option.name], option.metadata.get("translates", False))
        for option in options
        if choice[option.name]
    ]
    return own + [named for value in choice.nested for named in models_named(value)]
