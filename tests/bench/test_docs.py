"""docs/bench.md and docs/data.md say what is so, and the snippets run."""

import re
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner
from toolkit.bench.columns import TABLES, ArmColumns, SampleColumns
from toolkit.bench.plan import Plan, read_protocols
from toolkit.bench.results import Results

from toolkit import Registry, schema
from toolkit.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "bench.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def table(title, page=PAGE):
    """Rows of the first table after a line."""
    return re.findall(r"^\| (`.*)", page.partition(title)[2].partition("\n\n#")[0], re.MULTILINE)


def test_every_option_of_bench_is_there_with_its_key():
    command = main.get_command(click.Context(main), "bench")
    options = {name for p in command.params for name in p.opts if name != "--help"}
    rows = [row.split(" | ") for row in table("| option | key |")]
    assert {name for row in rows for name in re.findall(r"`(--?[a-z-]+)", row[0])} == options
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row[1])} == {
        field.name for field in attrs.fields(Plan)
    }


def test_defaults_are_told_as_they_are():
    plan, command = Plan(arms=["ar"]), main.get_command(click.Context(main), "bench")
    helps = {p.name: p.help for p in command.params}
    for row in table("| option | key |"):
        shown = re.search(r"\(`?(\w+)`?\)", row)
        if shown:
            key = re.findall(r"`(\w+)`", row.split(" | ")[1])[0]
            value = getattr(plan, key)
            assert shown[1] == str(value[0] if isinstance(value, list) else value)
            assert f"({shown[1]})" in helps[key]


def test_every_data_set_and_protocol_is_there():
    sets = {re.match(r"`([^`]+)`", row)[1] for row in table("| name | what |")}
    assert sets == set(Registry.installed().datasets)
    plans = {name for row in table("| plan | |") for name in re.findall(r"`([^`]+)`", row)}
    assert plans == set(read_protocols())


@pytest.mark.parametrize(("title", "columns"), [("runs", ArmColumns), ("requests", SampleColumns)])
def test_every_column_of_the_bench_is_documented_as_it_is(title, columns):
    page = (DOCS / "data.md").read_text(encoding="utf-8")
    section = page.partition(f"\n### `{title}` of a bench\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `.*", section, re.MULTILINE)
    assert rows == [row(field) for field in schema(columns)]


def row(field):
    """A column's row in docs/data.md."""
    kind = field.type
    shown = f"list of {kind.value_type}" if hasattr(kind, "value_type") else str(kind)
    null = ", null" if field.nullable else ""
    return f"| `{field.name}` | {shown}{null} | {field.metadata[b'help'].decode()} |"


def test_every_figure_of_the_definitions_is_a_column():
    section = PAGE.partition("## Definitions")[2].partition("\n## ")[0]
    named = {
        name
        for line in re.findall(r"^- (.*)", section, re.MULTILINE)
        for name in re.findall(r"`([a-z]\w+)`", line.partition(":")[0])
    }
    assert named <= set(TABLES["requests"].names)
    assert len(named) > 8


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A bench of two arms, in a folder called results."""
    folder = tmp_path_factory.mktemp("docs")
    arguments = ["bench", "--target", "stories-1m", "--arm", "name=look drafter=ngram"]
    arguments += ["--prompts", "3", "--rounds", "2", "--max-new-tokens", "8"]
    arguments += ["--out", str(folder / "results")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return folder


def test_there_are_a_duckdb_and_a_pyarrow_snippet():
    assert ["duckdb" in s for s in SNIPPETS] == [True, False]
    assert ["pyarrow" in s for s in SNIPPETS] == [False, True]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["duckdb", "pyarrow"])
def test_a_snippet_gives_our_ratio(results, monkeypatch, capsys, snippet):
    monkeypatch.chdir(results)
    exec(compile(snippet, "docs/bench.md", "exec"), {})
    ours = Results.read(results / "results")
    value = re.search(r"look\W+([0-9.]+)", capsys.readouterr().out)[1]
    assert float(value) == pytest.approx(ours.ratio("look", ours.settings[0]).mean)
