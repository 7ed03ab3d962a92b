"""`toolkit run`: Ctrl-C, errors in plugins, and a comparison that does not end."""

import json
import subprocess
import sys
from pathlib import Path
from weakref import ref

import pyarrow.parquet as pq
import pytest

from toolkit import exactness
from toolkit.errors import NoMemoryError
from toolkit.stream import Stream

PROMPT = "w5 w9 w33 w4 w9 w33"


INTERRUPTS = """
import attrs, os, signal, toolkit

@attrs.define
class Interrupts(toolkit.TreeShaper):
    name = "interrupts"
    after: int = toolkit.option(3)
    nodes = 2
    steps: int = attrs.field(init=False, default=0)

    def grow(self, root, expand):
        self.steps += 1
        if self.steps > self.after:
            {what}
        return root

@toolkit.hookimpl
def strategies():
    return [Interrupts]
"""


@pytest.fixture
def interrupts(tmp_path):
    """A shaper that presses Ctrl-C after some steps."""
    file = tmp_path / "interrupts.py"
    file.write_text(INTERRUPTS.format(what="raise KeyboardInterrupt"))
    return ["--plugin", file, "--shaper"]


def test_ctrl_c_shows_what_there_is(run, pair, interrupts, tmp_path):
    out = tmp_path / "r.parquet"
    result = run(PROMPT, *pair, *interrupts, "interrupts", "--verify", "--out", out)
    assert result.exit_code == 130
    assert "4 tokens, interrupted" in result.output
    assert "against AR" not in result.output
    (row,) = pq.read_table(out).to_pylist()
    assert (row["stop_reason"], len(row["token_ids"])) == ("interrupted", 4)


def test_ctrl_c_with_json_is_one_object_too(run, pair, interrupts):
    result = run(PROMPT, *pair, *interrupts, "interrupts", "--json")
    assert result.exit_code == 130
    found = json.loads(result.stdout)
    assert (found["stop_reason"], len(found["token_ids"])) == ("interrupted", 4)
    assert found["text"].split() == result.stderr.split()


@pytest.mark.installed
def test_ctrl_c_as_a_signal(pair, tmp_path):
    file = tmp_path / "interrupts.py"
    file.write_text(INTERRUPTS.format(what="os.kill(os.getpid(), signal.SIGINT)"))
    code = "from toolkit.cli import main; main(prog_name='toolkit')"
    command = ["run", PROMPT, *pair, "--plugin", str(file), "--shaper", "interrupts:after=5"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *command], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert "6 tokens, interrupted" in done.stdout


def test_ctrl_c_keeps_the_requests_that_are_finished(run, pair, interrupts, rows, tmp_path):
    out = tmp_path / "r.parquet"
    file = rows(*({"prompt": prompt} for prompt in ["w5 w9", "w33 w4 w9", "w7"]))
    plugin = Path(interrupts[1])  # counts the steps of all requests
    text = plugin.read_text().replace("self.steps += 1", "STEPS.append(1)")
    plugin.write_text(text.replace("self.steps >", "len(STEPS) >") + "\nSTEPS = []\n")
    result = run("--prompt-file", file, *pair, *interrupts, "interrupts:after=30", "--out", out)
    assert result.exit_code == 130, result.output
    first, second = pq.read_table(out).to_pylist()
    assert (first["stop_reason"], len(first["token_ids"])) == ("length", 24)
    assert (second["stop_reason"], len(second["token_ids"])) == ("interrupted", 8)
    assert "2 prompts, 32 tokens, interrupted" in result.output


def test_an_error_in_a_plugin_is_told_with_its_own_lines(run, pair, tmp_path):
    file = tmp_path / "fails.py"
    file.write_text(INTERRUPTS.format(what="1 / 0"))
    result = run(PROMPT, *pair, "--plugin", file, "--shaper", "interrupts")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Error: shaper 'interrupts' failed in `grow`:" in result.output
    assert f'File "{file}"' in result.output
    assert "engine.py" not in result.output


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (NoMemoryError("the GPU is full"), 2)]
)
def test_a_comparison_that_does_not_end_keeps_what_was_decoded(
    run, pair, tmp_path, monkeypatch, error, code
):
    def verify(*_):
        raise error

    monkeypatch.setattr(exactness, "verify", verify)
    out = tmp_path / "r.parquet"
    result = run(PROMPT, *pair, "--verify", "--out", out)
    assert result.exit_code == code
    (row,) = pq.read_table(out).to_pylist()
    assert (row["stop_reason"], len(row["token_ids"]), row["verdict"]) == ("length", 24, None)
    result = run(PROMPT, *pair, "--verify", "--json")
    assert result.exit_code == code
    assert len(json.loads(result.stdout)["token_ids"]) == 24


def test_ar_is_compared_once_the_request_has_freed_its_memory(run, pair, monkeypatch):
    streams, verify = [], exactness.verify
    honest = Stream.__attrs_post_init__
    monkeypatch.setattr(
        Stream, "__attrs_post_init__", lambda self: (streams.append(ref(self)), honest(self))
    )
    left = []

    def watched(*given):
        left.append(streams[0]())
        return verify(*given)

    monkeypatch.setattr(exactness, "verify", watched)
    assert run(PROMPT, *pair, "--verify").exit_code == 0
    assert left == [None]
