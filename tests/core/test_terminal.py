"""What is printed: no escapes under NO_COLOR, whole rows in a pipe, whole sentences in help."""

import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from toolkit import Registry
from toolkit.cli import main
from toolkit.progress import show_progress, working

ESCAPE = "\x1b"


@pytest.mark.parametrize("command", ["models", "plugins list"])
def test_a_row_is_one_line_in_a_pipe(command):
    result = CliRunner().invoke(main, command.split())
    rows = [line for line in result.output.splitlines() if line.strip()]
    assert all(not line.startswith(" ") for line in rows)
    assert ("in this package" if command == "models" else "speculative-toolkit") in rows[1]


def test_every_model_fits_a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setattr("toolkit.terminal.LONGEST", 80)
    result = CliRunner().invoke(main, ["models"])
    for family in Registry.installed().families:
        for alias, place in family.models.items():
            shown = "in this package" if place.startswith("package:") else place
            assert re.search(rf"^{alias} +{shown} +(yes|no) *$", result.output, re.M)
        assert re.search(rf"^{family.target} +{family.drafter} *$", result.output, re.M)


@pytest.mark.parametrize("group", [[], ["plugins"]])
def test_help_has_whole_sentences(group):
    result = CliRunner().invoke(main, [*group, "--help"])
    assert result.exit_code == 0
    assert "..." not in result.output.partition("Commands:")[2]
    assert "Commands:" in result.output


MAIN = "from toolkit.cli import main; main(prog_name='toolkit')"


def read_all(terminal):
    """What is written to a terminal until its other end closes."""
    parts = []
    try:
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    except OSError:  # how Linux says that the other end is closed
        pass
    return b"".join(parts)


@pytest.mark.installed
@pytest.mark.parametrize("no_color", ["", "1"])
@pytest.mark.parametrize(
    "words", [["run", "Once upon a time", "--max-new-tokens", "8", "--verify"], ["plugins", "list"]]
)
def test_no_color_is_obeyed_on_a_terminal(words, no_color):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": no_color}
    running = subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, *words],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    shown = read_all(ours).decode(errors="replace")  # at once: a terminal holds a few kilobytes
    os.close(ours)
    assert running.wait(120) == 0
    assert len(shown) > 100
    assert (ESCAPE in shown) is (not no_color)


def test_without_escapes_a_slow_step_is_a_line(monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with show_progress(), working("Loading"), working("Compiling"):
        pass
    assert re.sub(r" +", " ", capsys.readouterr().err) == "Loading …\nCompiling …\n"
