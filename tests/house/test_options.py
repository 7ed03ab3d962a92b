"""Each option of the command line is defined once, and a plugin's command can use it."""

import ast
import re

import click
from click.testing import CliRunner

from toolkit.cli import options

FOLDERS = ("toolkit", "bench")


def defined(tree):
    """The names of the options that a module defines."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    for call in calls:
        first = call.args[0]
        if ast.unparse(call.func).endswith("option") and isinstance(first, ast.Constant):
            yield first.value


def test_no_option_is_defined_in_two_files(root, files):
    homes = {}
    for path in files:
        if path.parts[0] in FOLDERS and path.suffix == ".py":
            for name in defined(ast.parse((root / path).read_text(encoding="utf-8"))):
                homes.setdefault(name, set()).add(str(path))
    assert homes["--dtype"] == {"toolkit/cli/options.py"}
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_the_check_would_notice():
    tree = ast.parse("@click.option('--dtype')\ndef mine(): ...\nkv = _option('--kv')")
    assert sorted(defined(tree)) == ["--dtype", "--kv"]


def test_the_command_in_the_documentation_works(root):
    page = (root / "docs" / "plugins.md").read_text(encoding="utf-8")
    section = page.partition("\n## Commands\n")[2]
    scope = {"__name__": "toolkit_mine"}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], scope)
    command = next(value for value in scope.values() if isinstance(value, click.Command))
    assert {"target", "drafter", "device", "dtype", "executor", "plugins"} <= {
        parameter.name for parameter in command.params
    }
    result = CliRunner().invoke(command, ["Once upon a time", "--max-new-tokens", "8"])
    assert result.exit_code == 0, result.output
    assert float(result.output) >= 1


def test_every_option_is_documented(root):
    page = (root / "docs" / "plugins.md").read_text(encoding="utf-8")
    section = page.partition("\n## Commands\n")[2].partition("\n## ")[0]
    public = {name for name, value in vars(options).items() if not name.startswith("_")
              and getattr(value, "__module__", "") == options.__name__}  # fmt: skip
    assert {name for name in public if f"`{name}" not in section} == set()
