"""What every command does alike: Ctrl-C, outputs that take nothing, errors of any length, threads."""

import os
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from toolkit.cli import WAITING, _let_threads_sleep, main

MAIN = "from toolkit.cli import main; main(prog_name='toolkit')"
READY = "import os, time\nos.write(1, b'ready')\n"
DESTRUCTOR = """
class Slow:
    def __del__(self):
        exec({!r})
        time.sleep(60)
Slow()
time.sleep(60)
"""
STUBBORN = """
import os, time
try:
    os.write(1, b'ready')
    time.sleep(60)
except KeyboardInterrupt:
    os.write(1, b'again')
    time.sleep(60)
"""


def started(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


def interrupted(process, said):
    """Press Ctrl-C once the process has said something."""
    assert os.read(process.stdout.fileno(), 100) == said
    process.send_signal(signal.SIGINT)


@pytest.fixture
def importing(tmp_path):
    """A command in the middle of an import."""
    processes = []

    def start(body):
        file = tmp_path / "slow.py"
        file.write_text(body)
        processes.append(started("run", "hi", "--plugin", file))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def left_in_silence(process):
    out, err = process.communicate(timeout=60)
    return (process.returncode, out, err) == (130, b"", b"")


@pytest.mark.installed
def test_ctrl_c_while_importing(importing):
    process = importing(f"{READY}time.sleep(60)")
    interrupted(process, b"ready")
    assert left_in_silence(process)


@pytest.mark.installed
def test_ctrl_c_where_python_would_only_report_it(importing):
    process = importing("import time\n" + DESTRUCTOR.format(READY))
    interrupted(process, b"ready")
    assert left_in_silence(process)


@pytest.mark.installed
def test_a_second_ctrl_c(importing):
    process = importing(STUBBORN)
    interrupted(process, b"ready")
    interrupted(process, b"again")
    assert left_in_silence(process)


@pytest.mark.installed
def test_a_ctrl_c_that_the_parent_ignores_is_ignored(importing):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = importing(f"{READY}time.sleep(1)\nraise SystemExit")
    finally:
        signal.signal(signal.SIGINT, before)
    interrupted(process, b"ready")
    process.communicate(timeout=60)
    assert process.returncode == 2  # the plugin's own end


def test_signals_are_left_as_they_were():
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert CliRunner().invoke(main, ["models"]).exit_code == 0
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


COMMANDS = [
    "--help",
    "--version",
    "run --help",
    "models",
    "plugins list",
    "plugins show h2o",
    "bench list",
]


@pytest.mark.installed
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_output_is_one_line(command, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-P", "-c", MAIN, *command.split()],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.installed
@pytest.mark.parametrize("command", ["models", "run hi", "--help"])
def test_a_closed_output_is_one_line_at_once(command):
    shell = f'exec {sys.executable} -P -c "{MAIN}" {command} >&-'
    done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "Error: stdout is closed: send it to a file, to a pipe or to /dev/null\n"


@pytest.mark.installed
@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full"])
def test_an_error_that_cannot_be_told_has_its_status(redirected):
    shell = f'exec {sys.executable} -P -c "{MAIN}" run hi --shaper adaptve {redirected}'
    done = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(13, "Permission denied", "/x/y"),
            "/x/y cannot be used: Permission denied",
        ),
        (OSError(28, "No space left on device"), "the output cannot be written: No space left"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_like_any_other(monkeypatch, error, said):
    def fails():
        raise error

    monkeypatch.setattr(main, "get_command", lambda *_: click.Command("fails", callback=fails))
    result = CliRunner().invoke(main, ["fails"])
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: {said}")


def test_what_is_no_file_keeps_its_traceback(monkeypatch):
    def fails():
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(main, "get_command", lambda *_: click.Command("fails", callback=fails))
    result = CliRunner().invoke(main, ["fails"])
    assert isinstance(result.exception, OSError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["x" * 100_000],
        ["run", "hi", "--device", "x" * 100_000],
        ["run", "hi", "--" + "x" * 100_000],
        ["run", "hi", "x " * 50_000],
        ["run", "hi", "--shaper", "x" * 100_000],
        ["run", "hi", "--shaper", "chain:k=" + "9" * 5000],
        ["run", "hi", "--target", "x" * 100_000],
        ["run", "hi", "--target", "./" + "x" * 100_000],
        ["run", "hi", "--max-new-tokens", "9" * 5000],
        ["plugins", "show", "x" * 100_000],
        ["plugins", "new", "x" * 100_000, "--kind", "kv"],
        ["check", "x" * 100_000],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_an_error_quotes_what_is_long_cut(arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert len(result.output) < 1500
    assert "…" in result.output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, WAITING),
        ({"GOMP_SPINCOUNT": "7"}, {**WAITING, "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {}),
    ],
)
def test_threads_sleep_soon_unless_the_user_says_how_they_wait(monkeypatch, given, expected):
    for name in (*WAITING, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    _let_threads_sleep()
    assert {name: os.environ[name] for name in WAITING if name in os.environ} == expected


@pytest.mark.installed
def test_a_library_changes_no_environment(tmp_path):
    code = """
import os
before = dict(os.environ)
import toolkit, toolkit.cli
toolkit.Pipeline
assert before == dict(os.environ)
"""
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
