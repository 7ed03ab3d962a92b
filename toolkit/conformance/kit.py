"""check() and conforms(): every property that binds a strategy, tried on generated examples.

An outcome is PASS, FAIL, or INCONCLUSIVE: nothing failed, but what a property is about never came
up, so nothing was shown. INCONCLUSIVE is not a pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Literal

import attrs
import hypothesis
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky

from toolkit.choice import Choice, Strategy
from toolkit.conformance.catalogue import Property, Tally, binding
from toolkit.conformance.failures import told
from toolkit.conformance.subject import Subject
from toolkit.errors import SpecError
from toolkit.registry import Registry

Outcome = Literal["pass", "fail", "inconclusive"]
EXAMPLES = 60
EVIDENCE = ("drafted", "accepted", "rejected", "hidden")
SHRINKING = 15.0  # seconds for making a failing example small


@attrs.frozen
class Finding:
    """What came of one property. `details` is for people: why, and the smallest failing example."""

    name: str
    sentence: str
    outcome: Outcome
    details: str = ""
    examples: int = 0
    seen: dict[str, int] = attrs.field(factory=dict)
    seconds: float = 0.0


def check(
    spec: str | Strategy | type[Strategy] | Choice[Any],
    *,
    kind: str | None = None,
    never: Collection[str] = (),
    max_examples: int = EXAMPLES,
    registry: Registry | None = None,
) -> Iterator[Finding]:
    """Try every property that binds a strategy; yields one finding after another.

    `never` declares what a strategy never brings about (`drafted`, `accepted`, `rejected`, `hidden`),
    as a drafter that is always wrong is never `accepted`: then its absence is no gap, and its
    presence a failure. Models that the spec names are replaced by tiny ones. Raises `SpecError`.
    """
    subject = Subject.of(spec, registry or Registry.installed(), kind)
    declared = _declared(never)
    laws = binding(subject)
    yield from (tried(subject, law, declared, max_examples) for law in laws)
    if subject.exactness != "lossy" and subject.exactness not in {law.proves for law in laws}:
        yield Finding(
            "exactness-is-proved",
            "What a verifier declares about its output is what some property checks",
            "inconclusive",
            f"it declares {subject.exactness!r}, and no property checks that yet",
        )


def _declared(never: Collection[str]) -> frozenset[str]:
    strange = sorted(set(never) - set(EVIDENCE))
    if strange:
        raise SpecError(f"never {strange[0]!r}: it takes {', '.join(EVIDENCE)}")
    return frozenset(never) | ({"accepted", "rejected"} if "drafted" in never else set())


def tried(subject: Subject, law: Property, never: frozenset[str], max_examples: int) -> Finding:
    """One property on `max_examples` examples, the failing one made small."""
    trial, began = Trial(subject, law), perf_counter()
    error = trial.run(max_examples)
    outcome, details = _judged(trial, never, error)
    return Finding(
        law.name,
        law.sentence,
        outcome,
        details,
        trial.examples,
        {what: trial.tally[what] for what in EVIDENCE if trial.tally[what]},
        perf_counter() - began,
    )


def _judged(
    trial: Trial, never: frozenset[str], error: BaseException | None
) -> tuple[Outcome, str]:
    if error is not None:
        return "fail", told(trial.subject, trial.law.sentence, trial.failing, error)
    broken = sorted(what for what in never if trial.tally[what])
    if broken:
        return "fail", f"declared never {broken[0]}, and {trial.tally[broken[0]]} were"
    missing = sorted(trial.law.missing(trial.subject, trial.tally) - never)
    if missing:
        return "inconclusive", (
            f"nothing was {' or '.join(missing)} in {trial.examples} examples, so nothing was shown; "
            f"if that is as it should be, declare it: never {missing[0]}"
        )
    return "pass", ""


@attrs.define
class Trial:
    """One property being tried on one subject."""

    subject: Subject
    law: Property
    tally: Tally = attrs.field(factory=Counter)
    examples: int = 0
    failing: Any = None  # the last example that failed
    error: BaseException | None = None
    until: float = float("inf")

    def run(self, max_examples: int) -> BaseException | None:
        """What the smallest failing example raises; None when all hold."""
        rules = settings(
            max_examples=max_examples,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )

        def holds(example: Any) -> None:
            self.one(example)

        try:
            with _one_thread():
                rules(hypothesis.given(self.law.examples(self.subject))(holds))()
        except Flaky:  # it fails now and then, or there was no time to make it smaller
            return self.error
        except Exception as error:  # noqa: BLE001 a strategy may raise anything
            error.__notes__ = []  # hypothesis puts the example there; it is told otherwise
            return error
        return None

    def one(self, example: Any) -> None:
        """One example; remembers it when it fails."""
        if self.error is not None and perf_counter() > self.until and example != self.failing:
            return
        if self.error is None:
            self.examples += 1
        try:
            self.law.holds(self.subject, example, self.tally)
        except Exception as error:
            if self.error is None:
                self.until = perf_counter() + SHRINKING
            self.failing, self.error = example, error
            raise


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch: on models this tiny, more of them only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def conforms(
    spec: str | Strategy | type[Strategy] | Choice[Any],
    *,
    kind: str | None = None,
    never: Collection[str] = (),
    expected_failures: Mapping[str, str] | None = None,
    max_examples: int = EXAMPLES,
) -> Callable[..., None]:
    """One test per property, to be called `test_…` in a plugin's own suite.

    `expected_failures` names properties that are known not to hold, and why; one that holds after
    all fails, so that the list stays true. The rest is as in `check`. Raises `SpecError`.
    """
    import pytest

    subject = Subject.of(spec, Registry.installed(), kind)
    declared, expected = _declared(never), dict(expected_failures or {})
    laws = {law.name: law for law in binding(subject)}
    strange = sorted(set(expected) - set(laws))
    if strange:
        raise SpecError(f"no property {strange[0]!r} binds {subject.choice}: {', '.join(laws)}")

    @pytest.mark.parametrize("law", list(laws))
    def test(law: str) -> None:
        finding = tried(subject, laws[law], declared, max_examples)
        if law in expected:
            if finding.outcome != "fail":
                pytest.fail(f"{law} was expected to fail and does not", pytrace=False)
            pytest.xfail(expected[law])
        if finding.outcome != "pass":
            pytest.fail(f"{finding.outcome.upper()} {law}\n{finding.details}", pytrace=False)

    return test
