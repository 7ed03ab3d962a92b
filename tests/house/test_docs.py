"""The documentation is right: its commands exist, its Python runs, its tables match the code."""

import re
import shlex

import click
import pyarrow as pa
import pytest

from toolkit import Registry, embedded
from toolkit.cli import main
from toolkit.records import TABLES

KINDS = {
    "drafter": "drafter",
    "shaper": "shaper",
    "verifier": "verifier",
    "kv": "kv",
    "draft_kv": "kv",
}
PAGES = ["README.md", "docs/strategies.md", "docs/data.md", "docs/bench.md", "docs/show.md"]
PAGES += ["plugins/README.md"]
PAGES += ["plugins/toolkit-coin/README.md", "plugins/toolkit-comb/README.md"]
LINKED = [*PAGES, "docs/kv.md", "docs/plugins.md"]  # test_tutorial.py runs the commands of the tutorial


def text(root, page):
    return (root / page).read_text(encoding="utf-8")


def blocks(page, language=""):
    """The fenced blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for of, block in found if of == language]


def commands(page):
    """The arguments of every `toolkit …` line in plain blocks, without its comment."""
    lines = [line for block in blocks(page) for line in block.splitlines()]
    for line in lines:
        found = re.fullmatch(r"(?:\$ )?(?:\.venv/bin/)?toolkit (.*)", line)
        if found:
            yield shlex.split(found[1], comments=True)


def parsed(words):
    """The command that these words call, and its parameters. Raises on an unknown option."""
    context, command = click.Context(main, info_name="toolkit"), main
    while isinstance(command, click.Group) and not (words and words[0].startswith("--")):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
    if any(word in ("--help", "--version") for word in words):
        return command, {}
    return command, command.make_context(command.name, list(words)).params


def models_are_here():
    return all(
        (embedded.folder(name) / "model.safetensors").is_file() for name in ("target", "drafter")
    )


@pytest.mark.installed
@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_with_its_options(root, page):
    for words in commands(text(root, page)):
        parsed(words)


@pytest.mark.installed
@pytest.mark.parametrize("page", PAGES)
def test_every_spec_names_a_strategy(root, page):
    """Except strategies of a `--plugin` file or of the example plugins."""
    registry = Registry.installed()
    for words in commands(text(root, page)):
        _, given = parsed(words)
        for name, kind in KINDS.items():
            spec = given.get(name)
            if spec and not given.get("plugins") and not spec.startswith(("coin", "comb")):
                assert registry.resolve(kind, spec)


@pytest.mark.installed
def test_readme_has_every_option_of_run(root):
    options = {
        name
        for parameter in main.get_command(click.Context(main), "run").params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
    table = re.findall(r"^\| `--.*", text(root, "README.md"), re.MULTILINE)
    shown = {name for line in table for name in re.findall(r"--[a-z-]+", line.split(" | ")[0])}
    assert shown == options - {"--help"}


@pytest.mark.installed
def test_readme_has_every_command(root):
    shown = {words[0] for words in commands(text(root, "README.md"))}
    assert shown == set(main.list_commands(click.Context(main)))


def first_python(root):
    return blocks(text(root, "README.md"), "python")[0]


def test_the_first_python_is_short(root):
    assert len([line for line in first_python(root).splitlines() if line]) <= 10


@pytest.mark.installed
@pytest.mark.skipif(not models_are_here(), reason="the shipped models are not here")
def test_the_first_python_runs(root, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(first_python(root), "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "\nexact\n" in out
    assert len(out) > 100


def test_readme_shows_the_example_plugin_as_it_is(root):
    shown = blocks(text(root, "README.md"), "python")[1]
    assert shown == text(root, "plugins/toolkit-coin/toolkit_coin.py")


def test_readme_says_where_things_are(root, tracked):
    """A row for every top-level folder, and few rows beside those."""
    rows = re.findall(r"^\| `([a-z/]+)/` \|", text(root, "README.md"), re.MULTILINE)
    folders = {path.parts[0] for path in tracked if len(path.parts) > 1} - {".ci"}
    assert folders <= set(rows)
    assert all((root / row).is_dir() for row in rows)
    assert len(rows) <= len(folders) + 4


@pytest.mark.parametrize("page", LINKED)
def test_every_link_leads_somewhere(root, page):
    folder = (root / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text(root, page)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        assert (folder / path).exists(), target
        if anchor:
            there = text(root, page if not path else str((folder / path).relative_to(root)))
            titles = re.findall(r"^#+ (.*)", there, re.MULTILINE)
            assert anchor in [t.replace("`", "").lower().replace(" ", "-") for t in titles]


@pytest.mark.installed
@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_documented_as_it_is(root, table):
    section = text(root, "docs/data.md").partition(f"\n## `{table}`\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `.*", section, re.MULTILINE) == list(map(column, TABLES[table]))


def column(field):
    """The row of a column in docs/data.md."""
    kind = field.type
    shown = f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)
    null = ", null" if field.nullable else ""
    return f"| `{field.name}` | {shown}{null} | {field.metadata[b'help'].decode()} |"
