"""The goals of the GPU bench: the right rows decide them, and what is missing or missed shows."""

import pytest
from gpu_goals import AGAINST, COPIES, COST, LEVEL, OVERHEAD, PAGEABLE, SHARE, describe, find_goals

MEASURED = [
    ("AR", SHARE, 70.0),
    ("AR, whole step", SHARE, 82.5),
    ("growmap, whole step", SHARE, 190.0),
    (LEVEL, "ratio", 0.14),
    (f"{LEVEL}, as graphs", "ratio", 0.059),
    ("AR, whole step", AGAINST, 1.0),
    ("growmap, whole step", AGAINST, 2.5),
    ("fixed", AGAINST, 1.8),
    ("budget, streaming:budget=32", AGAINST, 9.0),  # another AR's tokens
    ("budget, tie", AGAINST, 9.0),
    ("410m budget", AGAINST, 9.0),
    ("generate", AGAINST, 0.25),
    ("generate, static cache", AGAINST, 0.5),
    ("assisted, k = 8", AGAINST, 0.2),
    ("assisted, k = 16", AGAINST, 0.5),
    ("growmap, whole step", OVERHEAD, 1.4),
    ("chain:k=4, whole step", OVERHEAD, 3.5),
    ("growmap", OVERHEAD, 20.0),  # pass by pass
    ("adaptive", OVERHEAD, 7.5),
    ("AR", COST, 2.0),
    ("budget", COST, 11.0),
    ("growmap, whole step", "copies", 1.0),
    ("chain:k=4, whole step", "copies", 0.9),
    ("fixed:threshold=0, whole step", "copies", 0.9),
    ("AR, whole step", "copies", 1.0),
    ("budget", "copies", 9.0),
    ("budget", COPIES, 1.0),
    ("chain:k=4", COPIES, 0.5),
    ("fixed:threshold=0", COPIES, 0.5),
    ("growmap", COPIES, 0.5),
    ("budget", PAGEABLE, 0.5),
    ("chain:k=4", PAGEABLE, 0.0),
    ("fixed:threshold=0", PAGEABLE, 0.0),
    ("growmap", PAGEABLE, 0.0),
    ("growmap, whole step", PAGEABLE, 0.0),
    ("chain:k=4, whole step", PAGEABLE, 0.0),
    ("fixed:threshold=0, whole step", PAGEABLE, 0.0),
    ("AR, whole step", PAGEABLE, 0.0),
]
EXPECTED = [
    "82.5 % (AR, whole step) | yes",
    "0.059 (drafter level over target pass, as graphs) | yes",
    "0.14 (drafter level over target pass) | **no**",
    "2.5 × (growmap, whole step) | yes",
    "10 × (growmap, whole step against generate) | yes",
    "5 × (growmap, whole step against generate, static cache) | **no**",
    "5 × (growmap, whole step against assisted, k = 16) | yes",
    "3.5 % of a step (chain:k=4, whole step) | **no**, without fixed:threshold=0, whole step",
    "7.5 % of a step (adaptive) | yes",
    "11 % (budget) | **no**",
    "1 (growmap, whole step) | yes",
    "1 (budget) | yes, without AR",
    "0.5 (budget) | **no**, without AR",
]


def rows(measured):
    return [
        {"stage": "speed", "subject": subject, "measure": measure, "value": value, "note": ""}
        for subject, measure, value in measured
    ]


def test_goals_are_those_of_the_rows_that_decide_them():
    found = [goal.line.removesuffix(" |").split(" | ", 2)[2] for goal in find_goals(rows(MEASURED))]
    assert found == EXPECTED


@pytest.mark.parametrize("index", range(len(EXPECTED)))
def test_a_goal_is_not_met_by_what_was_not_measured(index):
    """Nor by the rows of all the others."""
    goals = find_goals(rows([]))
    assert goals[index].line.endswith("| | not measured |")


def test_one_missing_baseline_leaves_the_others():
    without = [row for row in MEASURED if not row[0].startswith("assisted")]
    missing = [goal.what for goal in find_goals(rows(without)) if goal.value is None]
    assert missing == ["best shaper against transformers' assisted generation, its best k"]


def test_what_failed_is_not_the_best():
    failed = {"stage": "speed", "subject": "growmap, whole step", "measure": "failed", "value": None}
    goals = find_goals([*rows(MEASURED), failed])
    assert [(goal.value, goal.of) for goal in goals if "our own AR" in goal.what] == [(1.8, "fixed")]


def test_what_fell_back_stands_before_all_figures():
    fallen = {"stage": "speed", "subject": "70m", "measure": "fell back", "value": None, "note": "why"}
    lines = describe([*rows(MEASURED), fallen])
    assert lines[-2:] == ["", "- speed, 70m: fell back: why"]
    assert describe(rows(MEASURED))[-1] == "Nothing."
