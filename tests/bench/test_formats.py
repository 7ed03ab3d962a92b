"""What a bench prints for other programs is read back by their parsers, figure by figure."""

import csv
import io
import json

import pytest
from attrs import evolve
from toolkit.bench.formats import list_figures, print_results


@pytest.fixture
def results(invented):
    return invented({"ar": 50.0, 'a|b, "c"': 75.0}, settings=((256, 32), (256, 64)))


def test_json_and_csv_have_every_figure(results, capsys):
    print_results(results, "json")
    found = json.loads(capsys.readouterr().out)
    print_results(results, "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(found) == len(rows) == 2 * 2
    for line, row in zip(found, rows, strict=True):
        assert list(line) == list(row)
        texts = {key: "" if value is None else str(value) for key, value in line.items()}
        assert texts == row
    setting = results.settings[0]
    ratio = results.ratio(found[1]["arm"], setting)
    assert found[1]["against_ar"] == ratio.mean
    assert (found[1]["against_ar_low"], found[1]["reading"]) == (ratio.low, "faster")
    assert (found[1]["baseline"], found[1]["exact"]) == ("ar", 12)
    assert "avx2" in found[1]["machine"]


def test_markdown_has_a_table_for_each_setting_and_the_notes(results, capsys):
    print_results(results, "md")
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("| ")]
    assert len(tables) == 2 * (2 + 2)
    assert len({line.replace("\\|", "").count("|") for line in tables}) == 1
    assert sum(line.startswith("### ") for line in lines) == 2
    assert any(line.startswith("- Machine: ") for line in lines)


def test_nothing_measured_is_an_empty_list(results, capsys):
    none = evolve(results, requests=[])
    assert list_figures(none) == []
    print_results(none, "csv")
    assert capsys.readouterr().out == "arm\n"
