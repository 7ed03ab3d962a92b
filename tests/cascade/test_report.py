"""The report: a page that loads nothing, tables, and the command."""

import attrs
import numpy as np
import pytest
from click.testing import CliRunner
from toolkit.cascade import fitting
from toolkit.cascade import study as module
from toolkit.cascade.answers import read_answers, write_answers
from toolkit.cascade.report import list_notes, list_rows, list_stages
from toolkit.cascade.scorers.mean_logprob import MeanLogprob

from toolkit.cli import main


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(module, "TURNS", 64)
    monkeypatch.setattr(fitting, "SWEEP", np.array([0.0, 1.0, 10.0]))


def test_the_command(record, make_study, tmp_path):
    rows, out = tmp_path / "rows.parquet", tmp_path / "out"
    write_answers(record(stages=2), rows)
    words = ["cascade", "report", str(rows), "--out", str(out), "--scorer", "mean-logprob"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "× large" in done.output
    assert f"wrote {out / 'index.html'} and 8 figures beside it" in done.output
    text = (out / "index.html").read_text("utf-8")
    assert text.count("<figure>") == 4
    assert "<script" not in text
    study = make_study(read_answers(rows), MeanLogprob())
    for cells in (*list_rows(study), *list_stages(study)):
        assert all(cell in text for cell in cells)


def test_bad_input_is_refused(record, tmp_path):
    rows = tmp_path / "rows.parquet"
    write_answers(record(stages=2), rows)
    for words, error in (
        ([str(rows), "--scorer", "taste"], "taste"),
        ([str(tmp_path / "none.parquet")], "has no recorded answers"),
    ):
        done = CliRunner().invoke(main, ["cascade", "report", *words])
        assert done.exit_code == 2
        assert error in done.output


def test_a_slow_large_model_is_named(record, make_study):
    rows = [attrs.evolve(row, name=f"model-{row.stage} drafter=none") for row in record(stages=2)]
    assert any("without speculation" in note for note in list_notes(make_study(rows, MeanLogprob())))
    fair = make_study(record(stages=2), MeanLogprob())
    assert not any("without speculation" in note for note in list_notes(fair))
