"""`toolkit plan`: from numbers, from measurements, and refusals."""

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.conformance.models import COSTS

NUMBERS = [
    "--level", "mid", "--level", "small", "--acceptance", "mid=.85", "--acceptance", "small=.72",
    "--acceptance", "mid/small=.82", "--cost", "mid=.22", "--cost", "small=.09",
]  # fmt: skip


@pytest.fixture
def toolkit(own_cache, monkeypatch):
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", lambda *_: COSTS)
    return lambda *arguments: CliRunner(env={"COLUMNS": "90"}).invoke(main, arguments)


def test_numbers_need_no_model(toolkit):
    result = toolkit("plan", *NUMBERS)
    assert result.exit_code == 0, result.output
    assert "--drafter staged:levels=[mid]+[small],ahead=2" in result.output
    assert "mid pays: 1.04 ×" in result.output
    assert "small pays: 1.11 ×" in result.output


def test_measured_levels(toolkit):
    result = toolkit("plan", "--level", "stories-1m", "--level", "ngram", "--max-new-tokens", "12")
    assert result.exit_code == 0, result.output
    assert "accepted by stories-1m" in " ".join(result.output.split())
    assert "staged:levels=[stories-1m]+[ngram]" in "".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing option '--level'"),
        (["--level", "a", "--level", "a", "--cost", "a=1"], "given twice"),
        (["--level", "a", "--cost", "a=0.1"], "no acceptance of 'a' by 'target'"),
        (["--level", "a", "--acceptance", "a=0.5"], "add --cost a=0.1"),
        (["--level", "a", "--cost", "b=0.5"], "'b' is no --level"),
        (["--level", "a", "--cost", "a"], "is not NAME=NUMBER"),
        (["--level", "nothing"], "no drafter called 'nothing'"),
        (["--level", "synthetic:tokens=9"], "is no real drafter"),
    ],
)
def test_refusals(toolkit, arguments, said):
    result = toolkit("plan", *arguments)
    assert result.exit_code
    assert said in " ".join(result.output.split())
