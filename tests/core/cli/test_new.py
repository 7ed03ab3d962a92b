"""`toolkit plugins new`: every kind renders, installs as a stranger would install it, and conforms."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit import Registry
from toolkit.cli import main
from toolkit.cli.new import WHAT, _range, render_package
from toolkit.conformance import check


def call(*args):
    return CliRunner().invoke(main, ["plugins", "new", *args])


@pytest.mark.installed
@pytest.mark.parametrize("kind", WHAT)
def test_every_kind_is_a_whole_package(kind):
    files = render_package("my-own", kind)
    assert set(files) == {
        "pyproject.toml", "README.md", ".gitignore", ".github/workflows/test.yml",
        "toolkit_my_own.py", "test_my_own.py",
    }  # fmt: skip
    assert "class MyOwn(" in files["toolkit_my_own.py"] or kind == "dataset"
    for text in files.values():
        assert "{{" not in text.replace("${{", "")
        assert text.endswith("\n")


@pytest.mark.skipif(not shutil.which("ruff", path=str(sys.prefix) + "/bin"), reason="no ruff here")
@pytest.mark.parametrize("kind", WHAT)
def test_the_files_pass_the_linters(kind, tmp_path):
    for path, text in render_package("tidy", kind).items():
        if path.endswith(".py"):
            (tmp_path / path).write_text(text)
    ruff, config = f"{sys.prefix}/bin/ruff", str(Path(__file__).parents[3] / "pyproject.toml")
    for command in (["check", "--ignore", "S101,ANN,D,INP001,I001,ARG001"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *command, "--no-cache", "--config", config, str(tmp_path)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["shaper", "dataset"])
def test_it_installs_and_its_tests_pass(kind, tmp_path, stranger):
    """A strategy and a row: the files of the other kinds are installed in the same way."""
    name = f"fresh-{kind}"
    for line, folder in (
        (f"toolkit plugins new {name} --kind {kind}", tmp_path),
        ("pip install -e .", tmp_path / f"toolkit-{name}"),
        ("pytest -q", tmp_path / f"toolkit-{name}"),
    ):
        done = stranger.run(line, folder)
        assert done.returncode == 0, done.stdout + done.stderr
    assert " passed in " in done.stdout
    assert (
        "torch" not in stranger.run("ls", next(stranger.folder.glob("lib/*/site-packages"))).stdout
    )
    rows = json.loads(stranger.run("toolkit plugins list --json", tmp_path).stdout)
    known = {(row["name"], row["distribution"]) for row in rows}
    assert (name, f"toolkit-{name}") in known or kind == "dataset"  # no strategy: not in the list


@pytest.mark.parametrize("kind", ["drafter", "verifier", "kv"])
def test_its_tests_pass(kind, tmp_path, monkeypatch):
    """Those of the other kinds, in this process and with fewer examples."""
    files, registry = render_package(f"fresh-{kind}", kind), Registry.installed()
    for path in (f"toolkit_fresh_{kind}.py", f"test_fresh_{kind}.py"):
        (tmp_path / path).write_text(files[path])
    monkeypatch.syspath_prepend(tmp_path)
    registry.add_file(tmp_path / f"toolkit_fresh_{kind}.py")
    monkeypatch.setattr(
        "toolkit.conformance.conforms",
        lambda spec: check(registry.resolve(kind, spec), max_examples=10),
    )
    tests = runpy.run_path(str(tmp_path / f"test_fresh_{kind}.py"))
    for name, test in tests.items():
        if name.startswith(f"test_fresh_{kind}"):
            assert {finding.outcome for finding in test} == {"pass"}
        elif name.startswith("test_"):
            test()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Mine", "--kind", "shaper"], "lower-case words"),
        (["my_own", "--kind", "shaper"], "lower-case words"),
        (["../mine", "--kind", "shaper"], "lower-case words"),
        (
            ["chain", "--kind", "shaper"],
            "there is a shaper called 'chain' already, from speculative",
        ),
        (["mine", "--kind", "shape"], "shape"),
        (["mine"], "--kind"),
        (["there", "--kind", "shaper"], "toolkit-there exists already"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toolkit-there").mkdir()
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["toolkit-there"]


@pytest.mark.parametrize(
    ("ours", "written_for"),
    [("0.1.0", ">=0.1,<0.2"), ("1.4.2", ">=1.4,<2"), ("0.12", ">=0.12,<0.13")],
)
def test_a_plugin_is_written_for_this_version(ours, written_for):
    assert _range(ours) == written_for
