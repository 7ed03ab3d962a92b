"""`toolkit check`."""

import json

import pytest
from click.testing import CliRunner

from toolkit.cli import main

BROKEN = """
import toolkit
from saboteurs.verifiers import BonusOfTheRoot

@toolkit.hookimpl
def strategies():
    return [BonusOfTheRoot]
"""


def call(*args):
    return CliRunner().invoke(main, ["check", *map(str, args)])


def test_what_conforms_exits_with_0(tmp_path):
    report = tmp_path / "report.json"
    result = call("window:budget=4", "--max-examples", 12, "--json", report)
    assert result.exit_code == 0, result.output
    assert "PASS" in result.output
    assert "FAIL" not in result.output
    told = json.loads(report.read_text())
    assert told["verdict"] == "pass"
    assert told["spec"] == "window:budget=4"
    assert {p["outcome"] for p in told["properties"]} == {"pass"}
    assert all(p["seen"] and p["sentence"] and p["examples"] for p in told["properties"])


def test_what_fails_exits_with_1_and_shows_the_example(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(BROKEN)
    report = tmp_path / "report.json"
    result = call("bonus-of-the-root", "--plugin", file, "--max-examples", 15, "--json", report)
    assert result.exit_code == 1
    first, _, later = result.output.partition("also failed: tokens-equal-ar, cache-equals-ar")
    assert "FAIL         accepts-what-ar-says" in first
    assert "logits after node 0: " in first
    assert first.count("FAIL  ") == 1  # one cause
    assert "Mend the first failure first" in later
    assert "AR says" not in first + later
    assert "HypothesisRandom" not in result.output
    assert "AR says" in report.read_text()
    assert "random state changed" not in report.read_text()
    found = {one["name"]: one for one in json.loads(report.read_text())["properties"]}
    assert found["tokens-equal-ar"]["cause"] == "accepts-what-ar-says"
    assert {one["cause"] for one in found.values() if one["outcome"] == "pass"} == {""}
    assert result.output.rstrip().endswith("fail")


DICE = """
import toolkit
from saboteurs.policies import ByChance

@toolkit.hookimpl
def strategies():
    return [ByChance]
"""


def test_a_policy_that_draws_from_the_global_random_state_is_told_once(tmp_path):
    file, report = tmp_path / "mine.py", tmp_path / "report.json"
    file.write_text(DICE)
    result = call("by-chance", "--plugin", file, "--max-examples", 10, "--json", report)
    assert result.exit_code == 1
    first, *_, also, _, _ = result.output.splitlines()
    assert first.startswith("FAIL         repeats-exactly")  # the apt property, though it is the last
    assert result.output.count("the global random state changed") == 1
    assert "the one that a method is given" not in result.output  # no policy is given one
    assert "seeded by what the call is given" in result.output
    assert also.startswith("also failed: visible-by-position-alone, ")
    found = json.loads(report.read_text())["properties"]
    causes = {one["name"]: one["cause"] for one in found if one["outcome"] == "fail"}
    assert causes.pop("repeats-exactly") == ""
    assert set(causes.values()) == {"repeats-exactly"}


def test_untested_properties_exit_with_3():
    result = call("none", "--max-examples", 3)
    assert result.exit_code == 3
    assert "declare it" in result.output
    never = ["--never", "drafted"]
    assert call("none", "--max-examples", 3, *never).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bugdet"], "did you mean budget"),
        (["budget", "--max-examples", 0], "max-examples"),
        (["budget", "--kind", "drafter"], "no drafter called"),
        (["budget", "--plugin", "none.py"], "no plugin file none.py"),
        (["budget", "--json", "none/report.json"], "no folder none"),
        (["budget", "--never", "wrong"], "wrong"),
    ],
)
def test_bad_input_is_refused(arguments, said):
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_an_interrupted_check_keeps_what_it_found(tmp_path, monkeypatch):
    from toolkit.conformance import kit

    honest, report = kit.try_property, tmp_path / "report.json"

    def try_property(subject, prop, *rest):
        if prop.name == "stops-in-time":
            raise KeyboardInterrupt
        return honest(subject, prop, *rest)

    monkeypatch.setattr(kit, "try_property", try_property)
    result = call("budget", "--max-examples", 3, "--json", report)
    assert result.exit_code != 0
    told = json.loads(report.read_text())
    assert told["verdict"] is None
    assert [p["name"] for p in told["properties"]] == [
        "any-answer-grows-a-tree", "tokens-equal-ar", "cache-equals-ar",
    ]  # fmt: skip
