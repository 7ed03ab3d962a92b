"""The kit tests itself: it catches every saboteur by name, and passes every edge case."""

import os

import pytest
from hypothesis import settings
from saboteurs import GALLERY

from toolkit import Registry
from toolkit.conformance import edge_cases, kit
from toolkit.conformance.catalogue import PROPERTIES
from toolkit.conformance.kit import check, try_property
from toolkit.conformance.under_test import UnderTest, models_of_family

REGISTRY = Registry.installed()
QUICK = os.environ.get("TOOLKIT_PROFILE", "quick") == "quick"
BY_NAME = {prop.name: prop for prop in PROPERTIES}


@pytest.fixture(autouse=True)
def _no_shrinking(monkeypatch):
    """Shrinking does not change whether a saboteur is caught."""
    monkeypatch.setattr(kit, "SHRINKING", 0.0)


def subject(spec):
    return UnderTest.of(spec, REGISTRY, None)


@pytest.mark.parametrize("sabotage", GALLERY, ids=lambda s: f"{s.name}-{s.by}")
def test_a_saboteur_is_caught_by_name(sabotage):
    with sabotage.context():
        prop = BY_NAME[sabotage.by]
        finding = try_property(subject(sabotage.subject), prop, frozenset(), kit.EXAMPLES)
    models_of_family.cache_clear()  # models were prepared by broken code
    assert finding.outcome == sabotage.caught, finding.details
    assert finding.details
    assert sabotage.bug


def test_the_gallery_is_large_and_trips_every_property():
    assert len({sabotage.name for sabotage in GALLERY}) >= 20
    assert {sabotage.by for sabotage in GALLERY} == set(BY_NAME)


EDGE_CASES = (*edge_cases.DRAFTERS, *edge_cases.SHAPERS, *edge_cases.VERIFIERS, *edge_cases.POLICIES)


@pytest.mark.parametrize("cls", EDGE_CASES, ids=lambda cls: cls.name)
def test_an_edge_case_passes(cls):
    """Drafters that are always wrong, or right by chance alone, pass but for acceptance."""
    count = 8 if QUICK else settings.default.max_examples
    never = ("drafted",) if cls is edge_cases.Empty else ()
    found = [f for f in check(cls, never=never, max_examples=count) if f.outcome != "pass"]
    if cls in (edge_cases.Contrary, edge_cases.Scatter):
        found = [f for f in found if "nothing was accepted in" not in f.details]
    assert {finding.name: finding.details for finding in found} == {}
