"""The table of model families is consistent, and has the pairs that people expect."""

from collections import Counter

import pytest

from toolkit import embedded
from toolkit.families import BUILT_IN, find_family


@pytest.mark.parametrize("family", BUILT_IN, ids=lambda family: family.name)
def test_target_and_drafter_are_among_the_aliases(family):
    assert {family.target, family.drafter} <= family.models.keys()
    assert family.target != family.drafter


def test_aliases_and_places_are_unique():
    aliases = Counter(alias for family in BUILT_IN for alias in family.models)
    places = Counter(place for family in BUILT_IN for place in family.models.values())
    assert {name for name, count in (aliases + places).items() if count > 1} == set()


@pytest.mark.parametrize("family", BUILT_IN, ids=lambda family: family.name)
def test_an_alias_is_lower_case_and_no_place(family):
    for alias, place in family.models.items():
        assert alias == alias.lower()
        assert "/" not in alias
        if place.startswith("package:"):
            assert (embedded.folder(place.removeprefix("package:")) / "config.json").is_file()
        else:
            assert place.count("/") == 1


@pytest.mark.parametrize(
    ("model", "target", "drafter"),
    [
        ("pythia-70m", "pythia-2.8b", "pythia-70m"),
        ("pythia-160m", "pythia-2.8b", "pythia-70m"),
        ("pythia-410m", "pythia-2.8b", "pythia-70m"),
        ("EleutherAI/pythia-410m", "pythia-2.8b", "pythia-70m"),
        ("llama-68m", "llama-7b", "llama-68m"),
        ("JackFram/llama-68m", "llama-7b", "llama-68m"),
        ("qwen2.5-0.5b-instruct", "qwen2.5-7b-instruct", "qwen2.5-0.5b-instruct"),
        ("qwen3-0.6b", "qwen3-8b", "qwen3-0.6b"),
        ("stories-1m", "stories-11m", "stories-1m"),
    ],
)
def test_who_drafts_for_whom(model, target, drafter):
    family = find_family(model, BUILT_IN)
    assert (family.target, family.drafter) == (target, drafter)


def test_a_model_of_no_family():
    assert find_family("someone/something", BUILT_IN) is None
