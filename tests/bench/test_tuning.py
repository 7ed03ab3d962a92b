"""Candidates of a grid, and the best of them."""

import pytest
from toolkit.bench.arms import parse_arms
from toolkit.bench.plan import Tune
from toolkit.bench.tuning import choose_best, list_candidates

from toolkit import Registry, ToolkitError

ARMS = parse_arms(["name=a drafter=model:x/y shaper=fixed:threshold=0.1", "hf:assisted", "hf:generate"])


def test_a_grid_is_every_combination_over_the_arms_own_options():
    grid = {"depth": [2, 3], "branch": [2, 4]}
    (found,) = list_candidates([Tune("a", grid)], ARMS, Registry.installed()).values()
    specs = [arm.specs["shaper"] for arm in found]
    assert specs[0] == "fixed:threshold=0.1,depth=2,branch=2"
    assert len(set(specs)) == 4
    assert {arm.specs["drafter"] for arm in found} == {"model:x/y"}
    assert found[3].name == "a depth=3,branch=4"


def test_hugging_faces_arms_are_tuned_by_k():
    tunes = [Tune("hf:assisted", {"k": [2, 5]})]
    (found,) = list_candidates(tunes, ARMS, Registry.installed()).values()
    assert [arm.specs["k"] for arm in found] == ["2", "5"]
    assert {arm.engine for arm in found} == {"hf:assisted"}
    assert found[1].name == "hf:assisted k=5"


def test_an_arm_is_tuned_once():
    tunes = [Tune("a", {"depth": [2]}), Tune("a", {"branch": [2]})]
    with pytest.raises(ToolkitError, match="each once"):
        list_candidates(tunes, ARMS, Registry.installed())


def test_options_of_the_drafter_can_be_tuned():
    arms = parse_arms(["name=n drafter=ngram shaper=chain"])
    (found,) = list_candidates([Tune("n", {"n": [2, 3]})], arms, Registry.installed()).values()
    assert [arm.specs["drafter"] for arm in found] == ["ngram:n=2", "ngram:n=3"]


@pytest.mark.parametrize(
    ("tune", "word"),
    [
        (Tune("hf:generate", {"k": [1]}), "cannot tune 'hf:generate'"),
        (Tune("hf:assisted", {"drafter": ["x/y"]}), "it has only k"),
        (Tune("hf:assisted", {"k": [0]}), "count of tokens"),
        (Tune("nobody", {"k": [1]}), "cannot tune 'nobody'"),
        (Tune("a", {"depth": ["²"]}), "takes int, got '²'"),
        (Tune("a", {"depth": ["1_0"]}), "depth"),
        (Tune("a", {"depth": [*range(1, 40)], "branch": [*range(1, 40)]}), "more than 1000"),
        (Tune("a", {"colour": [1]}), "neither its shaper nor its drafter"),
        (Tune("a", {"depth": [0]}), "depth"),
        (Tune("a", {"depth": ["deep"]}), "depth"),
    ],
)
def test_what_cannot_be_tuned(tune, word):
    with pytest.raises(ToolkitError, match=word):
        list_candidates([tune], ARMS, Registry.installed())


def test_the_best_has_the_greatest_geometric_mean():
    """Means of speeds would choose the one that is fast on a single prompt."""
    (found,) = list_candidates([Tune("a", {"depth": [2, 3]})], ARMS, Registry.installed()).values()
    speeds = {found[0].name: [100.0, 1.0], found[1].name: [20.0, 20.0]}
    rows = [
        {"arm": arm, "token_ids": [0] * 10, "wall_ms": 10 / speed}
        for arm, both in speeds.items()
        for speed in both
    ]
    assert choose_best(found, rows) == found[1]
