"""Every option of `toolkit bench` changes something: none is parsed and then forgotten."""

import json
from itertools import count
from shutil import copytree

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from toolkit.bench import runner
from toolkit.bench.command import bench
from toolkit.bench.engines import PipelineEngine
from toolkit.bench.results import Results
from transformers import GenerationConfig, PreTrainedTokenizerFast

from toolkit.conformance.models import VOCABULARY, noisy, tiny

ARM = ["--arm", "name=a drafter=ngram shaper=chain:k=2"]
ELSEWHERE = {  # whose effect is seen in files of their own
    "form": "test_formats.py",
    "resume": "test_interruption.py",
}
REFUSED = {"device", "plugins"}  # what is not on this machine
OPTIONS = {  # what is given to both calls, and to the second one alone
    "plan": ([], ["--plan", "{plan}"]),
    "arms": ([], ["--arm", "drafter=none kv=window:budget=9"]),
    "target": ([], ["--target", "{other}"]),
    "datasets": ([], ["--dataset", "{rows}:other"]),
    "prompts": ([], ["--prompts", "1"]),
    "prompt_tokens": ([], ["--prompt-tokens", "2"]),
    "max_new_tokens": ([], ["--max-new-tokens", "3"]),
    "rounds": ([], ["--rounds", "2"]),
    "warmup": ([], ["--warmup", "2"]),
    "seed": ([], ["--seed", "7"]),
    "temperature": ([], ["--temperature", "0.7"]),
    "top_p": (["--temperature", "0.7"], ["--top-p", "0.3"]),
    "top_k": (["--temperature", "0.7"], ["--top-k", "2"]),
    "min_p": (["--temperature", "0.7"], ["--min-p", "0.9"]),
    "ignore_eos": (["--target", "{stops}"], ["--ignore-eos"]),
    "record": ([], ["--record", "nodes"]),
    "tune": ([], ["--tune", "a", "--grid", "k=2,3"]),
    "grid": (["--tune", "a", "--grid", "k=2,3"], ["--grid", "k=2,4"]),
    "dtype": ([], ["--dtype", "fp16"]),
    "executor": ([], ["--executor", "module"]),
    "device": ([], ["--device", "cuda:1"]),
    "out": ([], ["--out", "{out}"]),
    "plugins": ([], ["--plugin", "{missing}"]),
}

PARTS = ("dtype", "baseline", "kv", "tuned", "datasets")  # of a run's row


def test_every_option_is_in_the_table():
    names = {option.name for option in bench.params}
    assert names == set(OPTIONS) | set(ELSEWHERE)


@pytest.fixture(scope="module")
def known():
    """What calls have left that several options are compared with."""
    return {}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What stands in braces above."""
    tmp_path = tmp_path_factory.mktemp("places")
    words = {"<end>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    for name, model in (("target", tiny("gpt_neox", 3)), ("other", noisy("gpt_neox", 3))):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    copytree(tmp_path / "target", tmp_path / "stops")
    stops = GenerationConfig(eos_token_id=[*range(0, VOCABULARY, 2)])
    stops.save_pretrained(tmp_path / "stops")
    rows = [{"text": f"w{i} w{i + 1} w5", "other": f"w{i} w3"} for i in range(2, 12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "plan.toml").write_text('arms = ["drafter=ngram:n=2 shaper=chain:k=2"]')
    files = {"rows": "rows.jsonl", "plan": "plan.toml", "missing": "none.py"}
    names = {name: name for name in ("target", "other", "stops", "out")}
    return {name: tmp_path / file for name, file in (files | names).items()}


@pytest.fixture
def observed(toolkit, places, tmp_path, monkeypatch):
    """What a bench leaves: its files, the tables' values but for times, and how often it decoded."""
    calls, run, numbers = [], PipelineEngine.run, count()

    def counted(*args):
        calls.append(args[2])
        return run(*args)

    monkeypatch.setattr(PipelineEngine, "run", counted)
    monkeypatch.setattr(runner, "measure_bandwidth", lambda device: 1e9)

    def call(words):
        calls.clear()
        own = tmp_path / f"r{next(numbers)}"
        out = places["out"] if "{out}" in words else own
        base = ["--target", "{target}", "--dataset", "{rows}:text", "--prompts", "2"]
        base += ["--max-new-tokens", "6", "--warmup", "1", "--rounds", "1", "--out", str(own)]
        done = toolkit("bench", *(word.format(**places) for word in [*base, *words]))
        if done.exit_code:
            return done.exit_code, done.output
        results = Results.read(out)
        columns = ["arm", "dataset", "prompt_index", "prompt_limit", "token_ids", "round"]
        files = sorted(str(file.relative_to(out)) for file in out.rglob("*.parquet"))
        requests = [[row[column] for column in columns] for row in results.requests]
        # The linears of an executor are chosen by time: two equal calls may differ in them.
        executors = [text.split(",")[0] for text in json.loads(results.runs[0]["executors"]).values()]
        runs = [executors, *([row[part] for part in PARTS] for row in results.runs)]
        return done.exit_code, out.name == "out", files, requests, runs, len(calls)

    return call


@pytest.mark.parametrize("name", OPTIONS)
def test_it_changes_what_is_seen(observed, known, name):
    both, more = OPTIONS[name]
    words = *ARM, *both
    if words not in known:
        known[words] = observed(words)
    without, given = known[words], observed([*([] if name == "plan" else ARM), *both, *more])
    assert without[0] == 0, without
    assert given[0] == (2 if name in REFUSED else 0), given
    assert given[1:] != without[1:]


def test_the_same_call_leaves_the_same(observed):
    """The control: an option that were forgotten would be noticed."""
    assert observed(ARM) == observed(ARM)
