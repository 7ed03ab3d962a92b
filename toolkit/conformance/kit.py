"""Test every property that applies to a strategy on generated examples: `check` and `conforms`.

An outcome is PASS, FAIL or INCONCLUSIVE. INCONCLUSIVE means that nothing failed, but that the examples
never contained what the property is about. It is not a pass.
"""

from __future__ import annotations

import random
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
from toolkit.conformance.catalogue import applicable
from toolkit.conformance.comparison import GLOBAL_RANDOM, Broken
from toolkit.conformance.failures import describe_failure
from toolkit.conformance.property import ALL_KINDS, Property
from toolkit.conformance.under_test import Tally, UnderTest
from toolkit.errors import SpecError
from toolkit.progress import working
from toolkit.registry import Registry

FindingOutcome = Literal["pass", "fail", "inconclusive"]
EXAMPLES = 60
EVIDENCE = ("drafted", "accepted", "rejected", "hidden")
SHRINKING = 15.0  # seconds for shrinking a failing example


@attrs.frozen
class Finding:
    """The outcome of testing one property.

    `details` says why, with the smallest failing example. `seen` counts what the examples contained:
    `drafted`, `accepted`, `rejected`, `hidden`. `cause` is the name of the earlier failure that most
    likely explains this one; empty: none does.
    """

    name: str
    sentence: str
    outcome: FindingOutcome
    details: str = ""
    examples: int = 0
    seen: dict[str, int] = attrs.field(factory=dict)
    seconds: float = 0.0
    cause: str = ""

    @property
    def is_random(self) -> bool:
        """Whether it failed because the strategy draws from the global random state."""
        return self.outcome == "fail" and GLOBAL_RANDOM in self.details


def check(
    spec: str | Strategy | type[Strategy] | Choice[Any],
    *,
    kind: str | None = None,
    never: Collection[str] = (),
    max_examples: int = EXAMPLES,
    registry: Registry | None = None,
) -> Iterator[Finding]:
    """Test every property that applies to a strategy; yields a finding for each, causes first.

    `never` lists what cannot happen with this strategy: `drafted`, `accepted`, `rejected`, `hidden`.
    For example, the drafts of a drafter that is always wrong are never `accepted`. A property
    then passes without it, and fails if it happens. Models that the spec names are replaced by tiny
    ones. Raises `SpecError` for a bad spec or an unknown word in `never`.
    """
    subject = UnderTest.of(spec, registry or Registry.installed(), kind)
    declared = _read_never(never)
    properties = applicable(subject)
    pending, failed = list(properties), list[Finding]()
    while pending:
        prop = pending.pop(0)
        with working(f"Testing {prop.name}"):
            finding = try_property(subject, prop, declared, max_examples)
        apt = [one for one in pending if one.name == "repeats-exactly"]
        if finding.is_random and apt:
            pending = [*apt, prop, *(one for one in pending if one not in apt)]
            continue
        finding = attrs.evolve(finding, cause=_find_cause(prop, finding, failed))
        failed += [finding] * (finding.outcome == "fail")
        yield finding
    proved = {exactness for prop in properties for exactness in prop.proves}
    decodes = subject.kind in ALL_KINDS
    if decodes and subject.exactness != "lossy" and subject.exactness not in proved:
        yield Finding(
            "exactness-is-proved",
            "Some property tests the exactness that a verifier declares",
            "inconclusive",
            f"it declares {subject.exactness!r}, which no property tests yet",
        )


def _find_cause(prop: Property, finding: Finding, failed: list[Finding]) -> str:
    """The name of the earlier failure that most likely explains a failure; empty for none."""
    same = [one for one in failed if prop.whole or one.is_random]
    return same[0].name if same and finding.outcome == "fail" else ""


def _read_never(never: Collection[str]) -> frozenset[str]:
    unknown = sorted(set(never) - set(EVIDENCE))
    if unknown:
        raise SpecError(f"never takes {', '.join(EVIDENCE)}, not {unknown[0]!r}")
    return frozenset(never) | ({"accepted", "rejected"} if "drafted" in never else set())


def try_property(
    subject: UnderTest, prop: Property, never: frozenset[str], max_examples: int
) -> Finding:
    """Test one property on `max_examples` examples and shrink the first one that fails."""
    trial, began = Trial(subject, prop), perf_counter()
    error = trial.run(max_examples)
    outcome, details = _judge(trial, never, error)
    return Finding(
        prop.name,
        prop.sentence,
        outcome,
        details,
        trial.examples,
        {what: trial.tally[what] for what in EVIDENCE if trial.tally[what]},
        perf_counter() - began,
    )


def _judge(
    trial: Trial, never: frozenset[str], error: BaseException | None
) -> tuple[FindingOutcome, str]:
    if error is not None:
        return "fail", describe_failure(trial.subject, trial.prop.sentence, trial.failing, error)
    broken = sorted(what for what in never if trial.tally[what])
    if broken:
        return "fail", f"declared never {broken[0]}, but {trial.tally[broken[0]]} were"
    missing = sorted(trial.prop.missing(trial.subject, trial.tally) - never)
    if missing:
        return "inconclusive", (
            f"nothing was {' or '.join(missing)} in {trial.examples} examples, so this is untested; "
            f"if that is by design, declare it: never {missing[0]}"
        )
    return "pass", ""


@attrs.define
class Trial:
    """The test of one property on one strategy."""

    subject: UnderTest
    prop: Property
    tally: Tally = attrs.field(factory=Counter)
    examples: int = 0
    failing: Any = None  # the last example that failed
    error: BaseException | None = None
    until: float = float("inf")

    def run(self, max_examples: int) -> BaseException | None:
        """Return what the smallest failing example raises, or None when none fails."""
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
                rules(hypothesis.given(self.prop.examples(self.subject))(holds))()
        except Flaky:  # it fails only sometimes, or the time for shrinking is over
            return self.error
        except Exception as error:  # noqa: BLE001 a strategy may raise anything
            error.__notes__ = []  # Hypothesis puts the example there; `describe_failure` shows it
            return error
        return None

    def one(self, example: Any) -> None:
        """Test one example and remember it if it fails."""
        if self.error is not None and perf_counter() > self.until and example != self.failing:
            return
        if self.error is None:
            self.examples += 1
        before = _read_random_state()
        try:
            self.prop.holds(self.subject, example, self.tally)
        except Exception as error:
            if self.error is None:
                self.until = perf_counter() + SHRINKING
            self.failing, self.error = example, error
            if _read_random_state() != before:  # this explains whatever failed
                self.error = Broken(GLOBAL_RANDOM)
                raise self.error from error
            raise


def _read_random_state() -> tuple[object, object]:
    """The state of the global generators of torch and Python."""
    return torch.get_rng_state().tolist(), random.getstate()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: on models this small, more threads only wait for each other."""
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
    """Make one pytest test per property; assign it to a name that starts with `test_`.

    `expected_failures` maps the names of properties that are known to fail to the reason. They must
    fail, so that the list stays true. The other arguments are those of `check`. Raises `SpecError`.
    """
    import pytest

    subject = UnderTest.of(spec, Registry.installed(), kind)
    declared, expected = _read_never(never), dict(expected_failures or {})
    properties = {prop.name: prop for prop in applicable(subject)}
    unknown = sorted(set(expected) - set(properties))
    if unknown:
        raise SpecError(
            f"no property {unknown[0]!r} applies to {subject.choice}: {', '.join(properties)}"
        )

    failed: list[Finding] = []  # in this process, of those that are not expected to

    @pytest.mark.parametrize("name", list(properties))
    def test(name: str) -> None:
        finding = try_property(subject, properties[name], declared, max_examples)
        if name in expected:
            if finding.outcome != "fail":
                pytest.fail(f"{name} was expected to fail, but does not", pytrace=False)
            pytest.xfail(expected[name])
        if cause := _find_cause(properties[name], finding, failed):
            pytest.fail(f"FAIL {name}\nmost likely for the cause of {cause}", pytrace=False)
        failed.extend([finding] * (finding.outcome == "fail"))
        if finding.outcome != "pass":
            pytest.fail(f"{finding.outcome.upper()} {name}\n{finding.details}", pytrace=False)

    return test
