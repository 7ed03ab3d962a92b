"""`toolkit chat`: piped lines are turns."""


import subprocess
import sys

import pytest
from click.testing import CliRunner

from toolkit import Chat, Pipeline
from toolkit.cli import main
from toolkit.conformance.models import noisy, tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory, words):
    """A target and a drafter with a chat template."""
    made = {}
    for name, model in (("target", tiny("gpt_neox", 3)), ("drafter", noisy("gpt_neox", 3))):
        made[name] = str(tmp_path_factory.mktemp(name))
        model.save_pretrained(made[name])
        words().save_pretrained(made[name])
    return made


@pytest.fixture
def talk(folders):
    def call(*args, stdin=""):
        given = ["--target", folders["target"], "--drafter", folders["drafter"], "--dtype", "fp64"]
        return CliRunner().invoke(main, ["chat", *given, *map(str, args)], input=stdin)

    return call


def test_each_line_is_a_turn_that_sees_the_others(talk, folders):
    result = talk("--max-new-tokens", 8, "--system", "w30", stdin="w7 w8\n\nw9\n")
    assert result.exit_code == 0, result.output
    chat = Chat(Pipeline(folders["target"], drafter="none"), system="w30")
    for text in ("w7 w8", "w9"):
        stream = chat.ask(text, max_new_tokens=8)
        assert "".join(stream) in result.output
    assert f"; 0 of {len(chat.messages[1]['content'].split()) + 5} prompt" in result.output
    assert result.output.count("tokens/s; ") == 2
    assert f"{stream.kept} of {len(stream.prompt)} prompt tokens kept" in result.output


def test_a_stop_string_and_a_variable_are_taken(talk):
    result = talk("--stop", "w", "--template-arg", "enable_thinking=false", stdin="w7\n")
    assert result.exit_code == 0, result.output
    assert "[1 token" in result.output


@pytest.mark.parametrize("template", [None, "{{ raise_exception('not today') }}"])
def test_what_cannot_chat_is_refused_before_weights_load(talk, tmp_path, words, template):
    tiny("gpt_neox", 3).config.save_pretrained(tmp_path)
    words(template).save_pretrained(tmp_path)
    result = talk("--target", tmp_path, "--drafter", "none", stdin="w7\n")
    assert result.exit_code == 2
    assert ("no chat template" if template is None else "not today") in result.output


def test_a_turn_that_does_not_fit_ends_a_piped_conversation(talk):
    result = talk("--max-new-tokens", 4, stdin="w7\n" + "w7 " * 300 + "\n")
    assert result.exit_code == 2
    assert "tokens, but target" in result.output


INTERRUPTS = """
import attrs, os, signal, toolkit

@attrs.define
class Interrupts(toolkit.TreeShaper):
    name = "interrupts"
    nodes = 1
    steps: int = attrs.field(init=False, default=0)

    def grow(self, root, expand):
        self.steps += 1
        if self.steps > 2:
            os.kill(os.getpid(), signal.SIGINT)
        return root

@toolkit.hookimpl
def strategies():
    return [Interrupts]
"""


@pytest.mark.installed
def test_ctrl_c_ends_an_answer_after_its_step_and_not_the_conversation(folders, tmp_path):
    file = tmp_path / "interrupts.py"
    file.write_text(INTERRUPTS)
    code = "from toolkit.cli import main; main(prog_name='toolkit')"
    command = ["chat", "--target", folders["target"], "--drafter", "none", "--dtype", "fp64"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *command, "--plugin", file, "--shaper", "interrupts"],
        input="w7\nw8\n", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("[4 tokens, τ 1.00, ") == 2
    assert done.stdout.count("interrupted; 0 of") == 1
    assert "interrupted; 7 of 11 prompt tokens kept" in done.stdout
