"""`toolkit plugins` and `toolkit models`."""

import json

import pytest
from click.testing import CliRunner

from toolkit import Family, Registry
from toolkit.choice import options_of
from toolkit.cli import main, options
from toolkit.cli.plugins import list_rows
from toolkit.registry import BrokenPlugin


def call(*args):
    return CliRunner().invoke(main, [*map(str, args)])


def test_list_as_json_has_every_strategy():
    rows = json.loads(call("plugins", "list", "--json").stdout)
    assert {(r["kind"], r["name"]) for r in rows} == set(Registry.installed().entries)
    for row in rows:
        assert list(row) == [
            "name",
            "kind",
            "summary",
            "distribution",
            "version",
            "status",
            "reason",
            "trace",
            "needs_options",
        ]
        assert row["status"] == "ok"
        assert row["summary"]


def test_list_as_a_table():
    result = call("plugins", "list")
    assert result.exit_code == 0
    for name in ("adaptive", "ngram", "greedy", "window"):
        assert name in result.output


def test_a_broken_plugin_is_listed_with_its_reason():
    registry = Registry()
    why = "ModuleNotFoundError: No module named 'gone'"
    registry.broken["mine (mine:plugin)"] = BrokenPlugin("mine", why, "")
    (row,) = list_rows(registry)
    assert row["status"] == "broken"
    assert "gone" in row["reason"]
    assert row["kind"] is None


@pytest.mark.parametrize(("kind", "name"), sorted(Registry.installed().entries))
def test_show_tells_options_and_declarations(kind, name):
    result = call("plugins", "show", name)
    assert result.exit_code == 0
    assert f"{kind} {name}" in result.output
    options = options_of(Registry.installed().find(kind, name))
    assert all(f"  {option.name} (" in result.output for option in options)
    if kind == "verifier":
        exactness = Registry.installed().find(kind, name).exactness
        assert f"exactness: {exactness}" in result.output


def test_show_has_defaults_and_help():
    output = call("plugins", "show", "adaptive").output
    assert "nodes (int, default 64)" in output
    assert "most nodes, root included" in output


def test_show_suggests():
    result = call("plugins", "show", "adaptve")
    assert result.exit_code == 2
    assert "did you mean adaptive" in result.output


def test_a_file_is_listed_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import attrs, toolkit\n"
        "@attrs.define\n"
        "class Wide(toolkit.MaskPolicy):\n"
        "    '''Everything, as in full.'''\n"
        "    name = 'wide'\n"
        "    size: int = toolkit.option(help='how wide')\n"
        "    def visible(self, query_pos, key_pos):\n"
        "        return query_pos - key_pos < self.size\n"
        "@toolkit.hookimpl\n"
        "def strategies():\n"
        "    return [Wide]\n"
    )
    rows = json.loads(call("plugins", "list", "--json", "--plugin", file).stdout)
    (mine,) = [r for r in rows if r["name"] == "wide"]
    assert mine["needs_options"] is True
    assert mine["distribution"] == str(file)


def test_types_for_type_checkers_alone_break_nothing(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "import attrs, toolkit\n"
        "if TYPE_CHECKING:\n"
        "    from toolkit import Runtime\n"
        "@attrs.define\n"
        "class Quiet(toolkit.Drafter):\n"
        "    'Proposes nothing.'\n"
        "    name = 'quiet'\n"
        "    often: int = toolkit.option(1, help='how often')\n"
        "    _runtime: Runtime = attrs.field(init=False)\n"
        "    def start(self, prompt, runtime):\n"
        "        self._runtime = runtime\n"
        "    def expand(self, tree, frontier, k):\n"
        "        return toolkit.Candidates.none(len(frontier))\n"
        "    def commit(self, tokens):\n"
        "        pass\n"
        "@toolkit.hookimpl\n"
        "def strategies():\n"
        "    return [Quiet]\n"
    )
    result = call("plugins", "show", "quiet", "--plugin", file)
    assert result.exit_code == 0, result.output
    assert "often (int, default 1)" in result.output


def test_models_says_which_weights_are_here(tmp_path, monkeypatch):
    """A config alone, as an interrupted download leaves, is no model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--EleutherAI--pythia-70m" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abcd")
    (snapshot / "config.json").write_text("{}")
    row = next(r for r in call("models").output.splitlines() if r.startswith("pythia-70m"))
    assert row.split()[2] == "no"
    (snapshot / "model.safetensors").write_text("")
    row = next(r for r in call("models").output.splitlines() if r.startswith("pythia-70m"))
    assert row.split()[2] == "yes"


def test_models_lists_every_alias():
    result = call("models")
    assert result.exit_code == 0
    for alias in Registry.installed().aliases:
        assert alias in result.output
    assert "hf download" in result.output


def test_broken_plugins_alone_with_their_frames(monkeypatch):
    def broken(plugins):
        found = Registry()
        found.broken["mine (mine:plugin)"] = BrokenPlugin("mine", "KeyError: 'x'", '  File "m.py"')
        return found

    monkeypatch.setattr(options, "load_registry", broken)
    result = call("plugins", "list", "--broken")
    assert result.output.splitlines() == [
        "mine (mine:plugin): KeyError: 'x'", '  File "m.py"', "1 plugin did not load",
    ]  # fmt: skip
    (row,) = json.loads(call("plugins", "list", "--broken", "--json").stdout)
    assert row["trace"] == '  File "m.py"'


def test_what_others_wrote_is_no_markup(monkeypatch):
    def odd(plugins):
        found = Registry()
        found.broken["[red]mine[/] (m:p)"] = BrokenPlugin("mine", "[/blue] KeyError: ':x:'", "")
        models = {"[/x]": "a/[b]", ":b:": "c/d"}
        found.families.append(Family("odd", target="[/x]", drafter=":b:", models=models))
        return found

    monkeypatch.setattr(options, "load_registry", odd)
    listed = call("plugins", "list").output
    assert "[red]mine[/] (m:p)" in listed
    assert "did not load: [/blue]" in listed
    assert "':x:'" in listed
    listed = call("models").output
    assert "[/x]" in listed
    assert "a/[b]" in listed
    assert ":b:" in listed
