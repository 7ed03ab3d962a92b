"""The report: a page that loads nothing, tables, and the command."""

import pytest
from click.testing import CliRunner
from toolkit.cascade import study as module
from toolkit.cascade.answers import write_answers
from toolkit.cascade.report import list_notes, list_rows, list_stages, write_report
from toolkit.cascade.scorers.mean_logprob import MeanLogprob
from toolkit.cascade.study import Study

from toolkit.cli import main


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(module, "TURNS", 64)


def test_the_page(record, tmp_path):
    study = Study.of(record(stages=2), MeanLogprob())
    text = write_report(study, tmp_path / "out").read_text("utf-8")
    assert text.count("<figure>") == 4
    assert "<script" not in text
    assert len(list(tmp_path.glob("out/*.png"))) == 8
    for cells in (*list_rows(study), *list_stages(study)):
        assert all(cell in text for cell in cells)


def test_a_slow_large_model_is_named(record):
    import attrs

    rows = [attrs.evolve(row, name=f"model-{row.stage} drafter=none") for row in record(stages=2)]
    assert any("without speculation" in note for note in list_notes(Study.of(rows, MeanLogprob())))
    fair = Study.of(record(stages=2), MeanLogprob())
    assert not any("without speculation" in note for note in list_notes(fair))


def test_the_command(record, tmp_path):
    write_answers(record(stages=2), tmp_path / "rows.parquet")
    words = ["cascade", "report", str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*words, "--scorer", "mean-logprob"])
    assert done.exit_code == 0, done.output
    assert "× large" in done.output
    assert "figures beside it" in done.output
    for bad, error in (
        ([*words, "--scorer", "taste"], "taste"),
        (["cascade", "report", str(tmp_path / "none.parquet")], "has no recorded answers"),
    ):
        done = CliRunner().invoke(main, bad)
        assert done.exit_code == 2
        assert error in done.output
