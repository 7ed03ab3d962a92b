"""Every option of `toolkit chat` changes something: none is parsed and then forgotten."""

import json
import re
from shutil import copytree

import pytest
from click.testing import CliRunner

from toolkit import Chat
from toolkit.cli import main
from toolkit.cli.chat import chat
from toolkit.records import run_record

TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% endfor %}{% if loud %}w7 {% endif %}"
    "{% if add_generation_prompt %}w9{% endif %}"
)
SAMPLED = ["--temperature", "1"]
OPTIONS = {  # what is given to both calls, and to the second one alone
    "target": ([], ["--target", "{other}"]),
    "drafter": ([], ["--drafter", "ngram"]),
    "shaper": ([], ["--shaper", "chain"]),
    "verifier": ([], ["--verifier", "sampler-match"]),
    "kv": ([], ["--kv", "streaming:budget=8,sinks=2,epoch=4"]),
    "draft_kv": ([], ["--draft-kv", "streaming:budget=8,sinks=2,epoch=4"]),
    "temperature": ([], SAMPLED),
    "top_k": (SAMPLED, ["--top-k", "2"]),
    "top_p": (SAMPLED, ["--top-p", "0.1"]),
    "min_p": (SAMPLED, ["--min-p", "0.9"]),
    "seed": (SAMPLED, ["--seed", "7"]),
    "max_new_tokens": ([], ["--max-new-tokens", "5"]),
    "system": ([], ["--system", "w8"]),
    "template_args": ([], ["--template-arg", "loud=true"]),
    "stop": ([], ["--stop", "w"]),
    "dtype": ([], ["--dtype", "fp16"]),
    "executor": ([], ["--executor", "module"]),
    "device": ([], ["--device", "cuda"]),
    "plugins": ([], ["--plugin", "{missing}"]),
}
REFUSED = {"device", "plugins"}  # what is not on this machine
TIMES = re.compile(r"[0-9.]+ tokens/s")


def test_every_option_is_in_the_table():
    assert {option.name for option in chat.params} == set(OPTIONS)


@pytest.fixture
def places(tmp_path, target, drafter):
    """What stands in braces above."""
    folder = tmp_path / "chatty"
    copytree(target, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    other = tmp_path / "other"
    copytree(drafter, other)
    (other / "chat_template.jinja").write_text(TEMPLATE)
    return {
        "target": folder, "drafter": drafter, "other": other, "missing": tmp_path / "none.py",
    }  # fmt: skip


@pytest.fixture
def observed(places, monkeypatch):
    """What a conversation of two turns shows, but for times, and the run's record of its parts."""
    asked, ask = [], Chat.ask

    def keep(self, *args, **request):
        asked.append(self.pipeline)
        return ask(self, *args, **request)

    monkeypatch.setattr(Chat, "ask", keep)

    def call(words):
        asked.clear()
        base = ["--target", "{target}", "--drafter", "{drafter}", "--max-new-tokens", "12"]
        words = [word.format(**places) for word in [*base, *words]]
        done = CliRunner().invoke(main, ["chat", *words], input="w5 w9 w33\nw7\n")
        run = run_record(asked[0]) if asked else None
        models = run and [run.dtype, run.verifier, *json.loads(run.executors).values()]
        return done.exit_code, TIMES.sub("", done.output), models

    return call


@pytest.mark.parametrize("name", OPTIONS)
def test_it_changes_what_is_seen(observed, name):
    both, more = OPTIONS[name]
    without, given = observed(both), observed([*both, *more])
    assert without[0] == 0
    assert (given[0] == 0) == (name not in REFUSED)
    assert given[1:] != without[1:]


@pytest.mark.parametrize("name", ["top_k", "dtype"])
def test_the_same_call_shows_the_same(observed, name):
    """The control: an option that were forgotten would be noticed."""
    both, _ = OPTIONS[name]
    assert observed(both) == observed(both)
