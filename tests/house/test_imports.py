"""What an import costs, and that the public names are all there."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import toolkit

HEAVY = {"torch", "transformers", "pyarrow", "numpy", "hypothesis", "pytest", "tokenizers"}
STRATEGIES = {"strategies", "kvcache", "toolkit.strategies", "toolkit.kvcache", "toolkit.runtime"}
MAIN = "from toolkit.cli import main; main(prog_name='toolkit')"


def imported(code, cwd, *arguments, **environment):
    """Every module that a fresh Python imports to run `code`, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *arguments],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}, done.stdout


def light(modules):
    return not modules & (HEAVY | STRATEGIES)


@pytest.mark.installed
@pytest.mark.parametrize("code", ["import toolkit", "import toolkit.cli"])
def test_an_import_is_light(code, tmp_path):
    modules, _ = imported(code, tmp_path)
    assert "toolkit" in modules
    assert light(modules)


@pytest.mark.installed
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["run", "--help"]])
def test_help_is_light(arguments, tmp_path):
    modules, out = imported(MAIN, tmp_path, *arguments)
    assert "toolkit" in out
    assert light(modules)


@pytest.mark.installed
@pytest.mark.parametrize(
    ("words", "offered"), [("toolkit ", "run"), ("toolkit run --sh", "--shaper")]
)
def test_completion_is_light(words, offered, tmp_path):
    modules, out = imported(
        MAIN,
        tmp_path,
        _TOOLKIT_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert offered in out
    assert light(modules)


@pytest.mark.installed
def test_the_check_for_heavy_imports_would_notice(tmp_path):
    modules, _ = imported("from toolkit import TokenTree", tmp_path)
    assert not light(modules)


@pytest.mark.installed
def test_every_public_name_is_there():
    for name in toolkit.__all__:
        assert getattr(toolkit, name) is not None
    assert dir(toolkit) == sorted(toolkit.__all__)


@pytest.mark.installed
def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = toolkit.nothing


@pytest.mark.installed
def test_the_type_checker_sees_the_names_that_are_exported():
    """`_HOMES` and the TYPE_CHECKING block say the same."""
    tree = ast.parse(Path(find_spec("toolkit").origin).read_text(encoding="utf-8"))
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )
    seen = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: (f"toolkit.{home}", name) for name, home in toolkit._HOMES.items()}
    assert seen == homes
