"""What a property of a strategy is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import hypothesis.strategies as st

from toolkit.choice import Kind
from toolkit.conformance.cases import Case
from toolkit.conformance.under_test import Tally, UnderTest
from toolkit.interfaces import Exactness

ALL_KINDS: frozenset[Kind] = frozenset({"drafter", "shaper", "verifier", "kv"})


@attrs.frozen
class Property:
    """Something that must hold for strategies of some kinds.

    `examples` gives the examples for a strategy. `holds` tests one of them: it adds what the example
    contained to the tally, and raises `Broken` or what the strategy raises. If the tally lacks anything
    in `needs`, the property is untested. `proves` names the exactness that this property proves.
    """

    name: str
    sentence: str
    kinds: frozenset[Kind]
    examples: Callable[[UnderTest], st.SearchStrategy[Any]]
    holds: Callable[[UnderTest, Any, Tally], None]
    needs: frozenset[str]
    applies: Callable[[UnderTest], bool] = lambda _: True
    proves: tuple[Exactness, ...] = ()
    whole: bool = False  # whole decodings: what fails of a strategy's own kind makes them fail, too

    def missing(self, subject: UnderTest, tally: Tally) -> set[str]:
        """What the examples should have contained but did not."""
        hides = {"hidden"} if subject.kind == "kv" else set()
        return {what for what in self.needs | hides if not tally[what]}


def sentence(function: Callable[..., Any]) -> str:
    """The first sentence of a property's docstring, without what the function returns."""
    text = " ".join((function.__doc__ or "").split())
    return text.partition("; returns")[0].partition(". ")[0].rstrip(".")


def name_of(function: Callable[..., Any]) -> str:
    """The name of a property, from the name of its function."""
    return function.__name__.replace("_", "-")


def of_decodings(function: Callable[..., object], **rules: Any) -> Property:
    """Make a property of whole decodings, which is tested on cases."""

    def holds(subject: UnderTest, case: Case, tally: Tally) -> None:
        with subject.counting(tally):
            function(case, subject.registry)

    return Property(
        name_of(function),
        sentence(function),
        rules.pop("kinds", ALL_KINDS),
        lambda subject: subject.cases(),
        holds,
        frozenset({"drafted", "accepted", "rejected"}),
        whole=True,
        **rules,
    )


def of_kind(
    function: Callable[..., Any],
    kind: Kind,
    examples: Callable[[UnderTest], st.SearchStrategy[Any]],
    holds: Callable[[UnderTest, Any, Tally], None],
    *needs: str,
    **rules: Any,
) -> Property:
    """Make a property of one kind of strategy, which is tested on what such a strategy is given."""
    return Property(
        name_of(function),
        sentence(function),
        frozenset({kind}),
        examples,
        holds,
        frozenset(needs),
        **rules,
    )
