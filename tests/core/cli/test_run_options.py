"""Every option of `toolkit run` changes something: none is parsed and then forgotten."""

import json
import re
from shutil import copytree

import pytest

from toolkit.cli import run as module

SAMPLED = ["--temperature", "1"]
CHAT = ["--chat"]
TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% endfor %}{% if loud %}w7 {% endif %}"
    "{% if add_generation_prompt %}w9{% endif %}"
)
OPTIONS = {  # what is given to both calls, and to the second one alone
    "target": ([], ["--target", "{other}"]),
    "drafter": ([], ["--drafter", "ngram"]),
    "shaper": ([], ["--shaper", "chain"]),
    "verifier": ([], ["--verifier", "sampler-match"]),
    "kv": ([], ["--kv", "streaming:budget=16,sinks=2,epoch=4"]),
    "draft_kv": ([], ["--draft-kv", "streaming:budget=16,sinks=2,epoch=4"]),
    "temperature": ([], ["--temperature", "1"]),
    "top_k": (SAMPLED, ["--top-k", "2"]),
    "top_p": (SAMPLED, ["--top-p", "0.1"]),
    "min_p": (SAMPLED, ["--min-p", "0.9"]),
    "seed": (SAMPLED, ["--seed", "7"]),
    "max_nodes_per_level": ([], ["--max-nodes-per-level", "1"]),
    "max_nodes": ([], ["--max-nodes", "2"]),
    "max_seconds": ([], ["--max-seconds", "0.000001"]),
    "max_new_tokens": ([], ["--max-new-tokens", "5"]),
    "prompt_file": (None, ["--prompt-file", "{file}"]),
    "field": (["--prompt-file", "{rows}"], ["--field", "other"]),
    "chat": ([], ["--chat"]),
    "system": (CHAT, ["--system", "w8"]),
    "template_args": (CHAT, ["--template-arg", "loud=true"]),
    "stop": ([], ["--stop", "{word}"]),
    "dtype": ([], ["--dtype", "fp16"]),
    "verifying": ([], ["--verify"]),
    "as_json": ([], ["--json"]),
    "explaining": ([], ["--stats"]),
    "watching": ([], ["--watch"]),
    "explain": ([], ["--explain"]),
    "out": ([], ["--out", "{out}"]),
    "record": (["--out", "{out}"], ["--record", "nodes"]),
    "plugins": ([], ["--plugin", "{missing}"]),
    "executor": ([], ["--executor", "module"]),
    "device": ([], ["--device", "cuda"]),
}
PANEL = {"as_json", "explaining", "watching", "explain"}  # which are about how it is shown
TIMES = re.compile(r"[0-9.]+ (?:tokens/s|ms|s|%)|tokens_per_s\S* \S+|\S*_ms\S* \S+")


def test_every_option_is_in_the_table():
    names = {option.name for option in module.run.params} - {"prompt"}
    assert names == set(OPTIONS)


@pytest.fixture
def places(tmp_path, target, drafter, rows):
    """What stands in braces above."""
    folder, file = tmp_path / "chatty", tmp_path / "prompt.txt"
    copytree(target, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    file.write_text("w5 w6")
    return {
        "target": folder, "drafter": drafter, "other": drafter, "file": file, "word": "w",
        "rows": rows({"prompt": "w1 w2", "other": "w3 w4"}), "missing": tmp_path / "none.py",
    }  # fmt: skip


@pytest.fixture
def observed(run, places, tmp_path_factory):
    """What a call shows: exit status, output but for times, and the files that it writes."""

    def call(name, words):
        out = tmp_path_factory.mktemp("call") / "out"
        both = OPTIONS[name][0]
        prompt = [] if both is None or "--prompt-file" in both else ["w5 w9 w33"]
        base = ["--target", "{target}", "--drafter", "{drafter}", "--max-new-tokens", "12"]
        words = [word.format(**places, out=out) for word in [*base, *prompt, *(both or ()), *words]]
        done = run(*([] if name in PANEL else ["--json"]), *words)
        said = [" ".join(TIMES.sub("", line).split()) for line in done.output.splitlines()]
        if name not in PANEL and done.exit_code == 0:
            held = json.loads(done.output.splitlines()[-1]) | {"metrics": None}
            said = [(k, v) for k, v in held.items() if not k.endswith(("_ms", "_per_s"))]
        return done.exit_code, said, sorted(str(file.relative_to(out)) for file in out.rglob("*"))

    return call


@pytest.mark.parametrize("name", OPTIONS)
def test_it_changes_what_is_seen(observed, name):
    without, given = observed(name, []), observed(name, OPTIONS[name][1])
    assert given != without
    assert without[0] == 0
    assert given[0] == 0 or name in ("device", "plugins")  # which refuse what is not here


@pytest.mark.parametrize("name", ["top_k", "watching", "record"])
def test_the_same_call_shows_the_same(observed, name):
    """The control: an option that were forgotten would be noticed."""
    assert observed(name, []) == observed(name, [])
