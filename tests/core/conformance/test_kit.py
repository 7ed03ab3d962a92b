"""`check`, `conforms`, and the descriptions of failures."""

import os
import subprocess
import sys
from math import log
from pathlib import Path

import attrs
import pytest
import saboteurs
import torch
from saboteurs.drafters import RemembersRejected, Silent
from saboteurs.policies import ByChance
from saboteurs.shapers import ExpectsCandidates
from saboteurs.verifiers import BonusOfTheRoot

from toolkit import Candidates, Registry, TokenTree, Verdict
from toolkit.conformance import check, conforms, kit
from toolkit.conformance.cases import without_timed
from toolkit.conformance.catalogue import PROPERTIES, applicable
from toolkit.conformance.comparison import Broken
from toolkit.conformance.edge_cases import Contrary, LastOfEquals
from toolkit.conformance.failures import draw_tree
from toolkit.conformance.kit import try_property
from toolkit.conformance.models import DRAFT_MODEL
from toolkit.conformance.properties.drafters import candidates_in_order
from toolkit.conformance.under_test import UnderTest
from toolkit.errors import SpecError

REGISTRY = Registry.installed()
BY_NAME = {prop.name: prop for prop in PROPERTIES}


def outcome(spec, prop, never=(), count=60):
    return try_property(UnderTest.of(spec, REGISTRY, None), BY_NAME[prop], frozenset(never), count)


def names(spec, kind=None):
    return {prop.name for prop in applicable(UnderTest.of(spec, REGISTRY, kind))}


def test_every_property_has_a_sentence_and_a_name_of_its_own():
    assert len(BY_NAME) == len(PROPERTIES)
    for prop in PROPERTIES:
        assert prop.sentence
        assert prop.sentence[0].isupper()
        assert "\n" not in prop.sentence


def test_which_properties_apply():
    everyone = {"tokens-equal-ar", "cache-equals-ar", "stops-in-time"}
    for spec in ("ngram", "budget", "greedy", "window"):
        assert everyone < names(spec)
    assert "padded-vocabularies-fit" in names("model:stories-1m")
    assert "padded-vocabularies-fit" not in names("ngram")
    assert "keeps-the-first-draws" in names("chain", "shaper")
    assert "keeps-the-first-draws" not in names("budget")
    assert "accepts-what-ar-says" in names("greedy")
    assert "visible-by-position-alone" in names("window")


def test_models_are_replaced_by_tiny_ones():
    assert str(UnderTest.of("model:stories-1m", REGISTRY, None).choice) == f"model:{DRAFT_MODEL}"


def test_timed_options_have_their_defaults_where_trees_must_repeat():
    registry = Registry.installed()
    for spec, untimed in (
        ("budget:nodes=5,seconds=0.1", "budget:nodes=5,seconds=inf"),
        ("select:arms=[budget:seconds=0.1]+[chain]", "select:arms=[budget:seconds=inf]+[chain]"),
        ("chain:k=3", "chain:k=3"),
    ):
        assert str(without_timed(registry.resolve("shaper", spec))) == untimed


def test_nothing_drafted_is_not_a_pass():
    finding = outcome(Silent, "tokens-equal-ar", count=5)
    assert finding.outcome == "inconclusive"
    assert "nothing was" in finding.details
    assert "drafted" not in finding.seen


def test_what_is_declared_never_is_not_inconclusive():
    assert outcome(Silent, "tokens-equal-ar", count=5).outcome == "inconclusive"
    never = ["drafted", "accepted", "rejected"]
    assert outcome(Silent, "tokens-equal-ar", never, count=5).outcome == "pass"


def test_a_false_declaration_is_a_failure():
    finding = outcome("budget", "tokens-equal-ar", ["accepted"], count=20)
    assert finding.outcome == "fail"
    assert "declared never accepted" in finding.details


@pytest.mark.parametrize(
    ("spec", "said"),
    [("bugdet", "did you mean budget"), ("budget:nodes=x", "takes int"), ("window:0", "must be >= 1")],
)
def test_a_bad_spec_is_rejected_at_once(spec, said):
    with pytest.raises(SpecError, match=said):
        next(check(spec))


def test_a_bad_declaration_is_rejected():
    with pytest.raises(SpecError, match="never takes drafted, accepted, rejected, hidden"):
        next(check("budget", never=["wrong"]))


def test_a_name_of_two_kinds_needs_a_kind():
    registry = Registry.installed()
    name = "greedy"

    @attrs.define
    class Twin(Contrary):
        pass

    Twin.name = name
    registry.entries["drafter", name] = attrs.evolve(registry.entries["drafter", "none"], cls=Twin)
    with pytest.raises(SpecError, match="is a drafter and a verifier: say which"):
        UnderTest.of(name, registry, None)
    assert UnderTest.of(name, registry, "verifier").kind == "verifier"


def test_a_failing_example_is_small_and_readable(monkeypatch):
    monkeypatch.setattr(kit, "SHRINKING", 600.0)  # on a busy machine, too
    details = outcome(BonusOfTheRoot, "tokens-equal-ar", count=100).details
    assert details.startswith("The tokens are exactly those of AR under the same KV policy.")
    prompt = next(line for line in details.splitlines() if line.startswith("prompt "))
    assert len(prompt.split()) <= 3  # one token, or two
    assert "AR says" in details
    assert "accepted" in details
    assert "verifier    bonus-of-the-root" in details
    assert "Case(" not in details


def test_a_crash_shows_the_authors_frames_alone():
    details = outcome(ExpectsCandidates, "any-answer-grows-a-tree").details
    assert "IndexError" in details
    assert "in grow" in details
    assert "hypothesis" not in details.lower()
    assert "Failing test case" not in details


def test_a_tree_is_drawn_with_its_path():
    tree = TokenTree.root(3).grow([0], Candidates([[7, 8]], [[log(0.5), log(0.25)]]))
    text = draw_tree(tree, Verdict([0, 2], 9))
    assert text.splitlines() == ["root 3", "├── 7  p 0.5", "└── 8  p 0.25  accepted  then 9"]


def test_a_schedule_is_drawn_step_by_step():
    details = outcome(RemembersRejected, "drafts-from-committed-only").details
    shown = details.partition("tried on:\n")[2].splitlines()
    assert shown[0].startswith("prompt ")
    assert shown[1].startswith("root ")
    assert "committed path: nodes [0]" in shown
    assert "TokenTree(" not in details


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Candidates([[1], []], [[-1.0], []]), "rows of \\[1, 0\\] tokens"),
        (Candidates([[1, 2]], [[-1.0]]), "rows of \\[2\\] tokens and of \\[1\\] log-prob"),
        (Candidates([[1, 2, 3]], [[-2.0] * 3]), "3 candidates for a node, but k is 2"),
        (Candidates([torch.tensor([1])], [[-1.0]]), "not a list"),
    ],
)
def test_a_row_of_candidates_per_node_with_at_most_k(answer, said):
    class Fixed:
        def expand(self, tree, frontier, k):
            return answer

    with pytest.raises(Broken, match=said):
        candidates_in_order(Fixed(), TokenTree.root(3), 2, 9)


@attrs.define
class Declares(LastOfEquals):
    """A verifier that declares an exactness that no property tests."""

    exactness = "approximate"


def test_an_exactness_that_nothing_checks_is_inconclusive():
    findings = list(check(Declares, max_examples=3))
    assert findings[-1].name == "exactness-is-proved"
    assert findings[-1].outcome == "inconclusive"
    assert "tokens-equal-ar" not in {finding.name for finding in findings}
    assert list(check(LastOfEquals, max_examples=1))[-1].name != "exactness-is-proved"


SUITE = """
from toolkit.conformance import conforms
from saboteurs.verifiers import BonusOfTheRoot
from saboteurs.drafters import Silent
from toolkit.conformance.edge_cases import LastOfEquals, Wide

test_good = conforms(LastOfEquals, max_examples=8)
test_bad = conforms(BonusOfTheRoot, max_examples=8, expected_failures={
    "tokens-equal-ar": "known", "cache-equals-ar": "known"})
test_silent = conforms(Silent, max_examples=5)
test_untrue = conforms(Wide, max_examples=3, expected_failures={"tokens-equal-ar": "not so"})
"""


def test_conforms_makes_one_test_per_property(tmp_path):
    (tmp_path / "test_mine.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--strict-markers", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(saboteurs.__file__).parents[1])},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert sum(line.startswith("PASSED test_mine.py::test_good[") for line in lines) == len(
        names("greedy")
    )
    assert not any("test_good" in line and "FAILED" in line for line in lines)
    assert "XFAIL test_mine.py::test_bad[tokens-equal-ar] - known" in done.stdout
    assert "FAILED test_mine.py::test_bad[accepts-what-ar-says]" in done.stdout
    assert "FAILED test_mine.py::test_silent[tokens-equal-ar] - Failed: INCONCLUSIVE" in done.stdout
    assert "FAILED test_mine.py::test_untrue[tokens-equal-ar] - Failed: tokens-equal-ar" in done.stdout
    assert "Traceback" not in done.stdout


def test_conforms_says_one_cause_once():
    test = conforms(ByChance, max_examples=3)
    with pytest.raises(pytest.fail.Exception, match="global random state changed"):
        test("visible-by-position-alone")
    with pytest.raises(pytest.fail.Exception, match="for the cause of visible-by"):
        test("repeats-exactly")


def test_expected_failures_name_properties_that_bind():
    with pytest.raises(SpecError, match="no property 'siblings'"):
        conforms("budget", expected_failures={"siblings": "x"})


def test_hypothesis_and_pytest_import_nothing_of_ours():
    code = "import sys, pytest, hypothesis; print(sorted({'torch', 'toolkit'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
