"""`toolkit costs`: measured, cached, printed, drawn; `toolkit tune` is its old name."""

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.conformance.models import COSTS
from toolkit.runtime.machine.disk import cache_folder


@pytest.fixture(autouse=True)
def _invented(own_cache, monkeypatch):
    monkeypatch.setenv("MPLCONFIGDIR", str(own_cache / "plots"))
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", lambda *_: COSTS)
    monkeypatch.setattr("toolkit.pipeline.busy_load", lambda _: None)


def costs(*arguments, name="costs"):
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, [name, *arguments])


def test_it_prints_both_curves_and_keeps_them():
    done = costs()
    assert done.exit_code == 0, done.output
    assert "a pass of stories-11m" in done.output
    assert "a level of model:stories-1m" in done.output
    assert [line.split() for line in done.output.splitlines() if line.strip().startswith("16")] == [
        ["16", "1.50", "1.50", "1.80", "1.50"],
        ["16", "0.20", "2.00", "0.20", "2.00"],
    ]
    assert len(list(cache_folder("costs").glob("*.json"))) == 1


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_it_draws(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"costs{suffix}"
    done = costs("--drafter", "ngram", "--plot", str(picture))
    assert done.exit_code == 0, done.output
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "costs.gif"], "cannot draw costs.gif: its name must end in .pdf, .png, .svg"),
        (["--plot", "nowhere/costs.png"], "no folder nowhere for nowhere/costs.png"),
        (["--plot", "/proc/costs.png"], "/proc/costs.png cannot be written"),
        (["--target", "storeis-11m"], "did you mean stories-11m"),
        (["--drafter", "ngrm"], "ngram"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(monkeypatch, arguments, message):
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", None)
    done = costs(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("toolkit.extras.find_spec", lambda _: None)
    done = costs("--plot", "costs.png")
    assert done.exit_code == 2
    assert "pip install 'speculative-toolkit[plots]'" in done.output


def test_the_old_name_does_the_same_and_says_the_new_one():
    old, new = costs(name="tune"), costs()
    assert old.exit_code == 0
    assert old.stdout == new.stdout
    assert "`toolkit tune` is called `toolkit costs` now" in old.stderr
    assert "is called" not in new.stderr
    assert "tune" not in main.list_commands(None)
