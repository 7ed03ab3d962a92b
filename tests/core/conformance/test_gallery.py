"""The kit tests itself: every saboteur is caught, by name, and nothing odd but correct is."""

import pytest
from hypothesis import settings

from toolkit import Registry
from toolkit.conformance import kit, oddities
from toolkit.conformance.catalogue import PROPERTIES
from toolkit.conformance.kit import check, tried
from toolkit.conformance.saboteurs import GALLERY
from toolkit.conformance.subject import Subject

REGISTRY = Registry.installed()
LAWS = {law.name: law for law in PROPERTIES}


@pytest.fixture(autouse=True)
def _no_shrinking(monkeypatch):
    """Whether something is caught does not depend on how small the example becomes."""
    monkeypatch.setattr(kit, "SHRINKING", 0.0)


def subject(spec):
    return Subject.of(spec, REGISTRY, None)


@pytest.mark.parametrize("sabotage", GALLERY, ids=lambda s: f"{s.name}-{s.by}")
def test_a_saboteur_is_caught_by_name(sabotage):
    with sabotage.context():
        finding = tried(subject(sabotage.subject), LAWS[sabotage.by], frozenset(), kit.EXAMPLES)
    assert finding.outcome == sabotage.caught, finding.details
    assert finding.details
    assert sabotage.bug


def test_the_gallery_is_large_and_trips_every_property():
    assert len({sabotage.name for sabotage in GALLERY}) >= 20
    assert {sabotage.by for sabotage in GALLERY} == set(LAWS)


ODD = (*oddities.DRAFTERS, *oddities.SHAPERS, *oddities.VERIFIERS, *oddities.POLICIES)


@pytest.mark.parametrize("cls", ODD, ids=lambda cls: cls.name)
def test_what_is_odd_and_correct_passes(cls):
    """What is always wrong may pass for want of nothing but acceptance."""
    count = max(40, settings.default.max_examples)
    never = ("drafted",) if cls is oddities.Empty else ()
    found = [f for f in check(cls, never=never, max_examples=count) if f.outcome != "pass"]
    if cls is oddities.Contrary:
        found = [f for f in found if "nothing was accepted in" not in f.details]
    assert {finding.name: finding.details for finding in found} == {}
