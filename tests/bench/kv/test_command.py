"""The two commands as a user meets them, and the columns as the docs have them."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from toolkit.bench.columns import Context, Quality
from toolkit.bench.kv import quality
from toolkit.bench.results import Results

from toolkit import schema
from toolkit.cli import main

SMALL = ["--prompt-tokens", "16", "--tokens", "16", "--decode", "2"]


def run(*words):
    return CliRunner().invoke(main, words)


def test_quality_as_table_parquet_and_plot(tmp_path):
    out = tmp_path / "quality"
    done = run("kv-quality", "--kv", "h2o:budget=24,recent=4", *SMALL, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert re.search(r"^full +– +[\d.]+ +100.0 %", done.output, re.MULTILINE)
    assert re.search(r"^h2o:recent=4 +24 ", done.output, re.MULTILINE)
    table = pq.read_table(out / "kv_quality.parquet")
    assert table.schema.names == schema(Quality).names
    assert table.column("kv").to_pylist() == ["full", "h2o:budget=24,recent=4"]
    assert (out / "kv_quality.png").read_bytes().startswith(b"\x89PNG")


def test_context_as_table_parquet_and_plot(tmp_path):
    out = tmp_path / "context"
    done = run(
        "kv-context", "--contexts", "16,32", "--new-tokens", "4", "--rounds", "1", "--out", str(out)
    )
    assert done.exit_code == 0, done.output
    table = pq.read_table(out / "kv_context.parquet")
    assert table.num_rows == 8
    (machine,) = set(table.column("machine").to_pylist())
    assert "instruction set: " in machine
    assert f"Machine: {machine}." in " ".join(done.output.split())
    assert "self:kv=[streaming:budget=128]" in table.column("drafter").to_pylist()
    assert (out / "kv_context.png").read_bytes().startswith(b"\x89PNG")
    assert Results.read(out).divergent == []  # a bench, which compares every output
    assert run("report", str(out)).exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kv-quality", "--kv", "h3o"], "no kv called 'h3o': did you mean h2o?"),
        (["kv-quality", "--kv", "h2o:budget=9"], "do not fit into budget=9"),
        (["kv-quality", "--budgets", "0"], "each is at least 1"),
        (["kv-quality", "--budgets", "many"], "is not whole numbers"),
        (["kv-quality", "--text", "/nowhere/at.all"], "cannot be read as UTF-8"),
        (["kv-quality", "--tokens", "1700"], "give a longer one or lower them"),
        (["kv-quality", "--tokens", "90000"], "does not fit into the 2048 positions"),
        (["kv-quality", "--target", "gpt2-xl-of-nowhere"], "gpt2-xl-of-nowhere"),
        (["kv-context", "--contexts", "4000"], "has 2048: shorten the prompts or decode fewer"),
        (["kv-context", "--drafter", "self:kv=[h2o]"], "it reads queries"),
        (["kv-quality", "--budgets", "6_4"], "is not whole numbers"),
        (["kv-context", "--out", "/nowhere/at/all"], "make it first"),
        (["kv-context", "--out", "/proc/x"], "--out /proc/x cannot be written"),
    ],
)
def test_what_is_wrong_is_said(words, said):
    done = run(*words)
    assert done.exit_code != 0
    assert said in done.output


def test_an_interrupted_run_keeps_what_it_measured(tmp_path, monkeypatch):
    honest = quality.measure

    def interrupted(*args):
        yield from [row for row, _ in zip(honest(*args), range(2), strict=False)]
        raise KeyboardInterrupt

    monkeypatch.setattr(quality, "measure", interrupted)
    done = run("kv-quality", "--kv", "window", *SMALL, "--out", str(tmp_path / "kept"))
    assert done.exit_code != 0
    assert pq.read_table(tmp_path / "kept" / "kv_quality.parquet").num_rows == 2


def test_names_are_no_markup(tmp_path):
    text = tmp_path / "[b].txt"
    text.write_text("Once upon a time there was a big dog. " * 20)
    done = run("kv-quality", "--kv", "window:budget=24", *SMALL, "--text", str(text))
    assert done.exit_code == 0, done.output
    assert "[b].txt: 16 tokens scored" in done.output


def test_an_out_folder_is_not_overwritten(tmp_path):
    done = run("kv-quality", "--out", str(tmp_path))
    assert done.exit_code != 0
    assert "is there already" in done.output


@pytest.mark.parametrize("record", [Quality, Context])
def test_every_column_is_documented(record):
    docs = (Path(__file__).parents[3] / "docs" / "kv.md").read_text("utf-8")
    for field in schema(record):
        kind = f"{field.type} or null" if field.nullable else f"{field.type}"
        row = f"| `{field.name}` | {kind} | {field.metadata[b'help'].decode()} |"
        assert row in docs, row
