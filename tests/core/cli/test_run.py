"""`toolkit run` through Click's runner, and once as a real process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolkit.cli import main
from toolkit.conformance.models import VOCABULARY, noisy, tiny

PROMPT = "w5 w9 w33 w4 w9 w33"


def save(model, folder, words=VOCABULARY):
    """A model folder with a tokenizer whose words are w1, w2, …"""
    model.save_pretrained(folder)
    vocabulary = {"<end>": 0, **{f"w{i}": i for i in range(1, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    return save(tiny("gpt_neox", 3), tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def drafter(tmp_path_factory):
    return save(noisy("gpt_neox", 3), tmp_path_factory.mktemp("drafter"))


@pytest.fixture
def run():
    def call(*args, stdin=""):
        return CliRunner().invoke(main, ["run", *map(str, args)], input=stdin)

    return call


@pytest.fixture
def pair(target, drafter):
    return ["--target", target, "--drafter", drafter, "--dtype", "fp64", "--max-new-tokens", "24"]


def test_streams_text_and_ends_with_a_panel(run, pair):
    result = run(PROMPT, *pair, "--verify")
    assert result.exit_code == 0, result.output
    for word in (
        "tokens/s",
        "TTFT",
        "τ",
        "draft",
        "verify",
        "commit",
        "saved",
        "KV",
        "--shaper adaptive",
    ):
        assert word in " ".join(result.output.replace("│", " ").split())
    assert "exact: all" in result.output


def test_json_is_one_object_on_stdout(run, pair):
    result = run(PROMPT, *pair, "--verify", "--json")
    found = json.loads(result.stdout)
    assert list(found) == [
        "text",
        "token_ids",
        "stop_reason",
        "tau",
        "steps",
        "tokens_per_s",
        "ttft_ms",
        "verdict",
        "numerics",
        "specs",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "seed",
        "metrics",
    ]
    assert found["verdict"] == "exact"
    assert found["text"].split() == [f"w{i}" for i in found["token_ids"] if i]
    assert found["text"] in result.stderr


def test_without_verify_there_is_no_verdict(run, pair):
    assert json.loads(run(PROMPT, *pair, "--json").stdout)["verdict"] is None


def test_a_seed_gives_the_same_sampled_text_and_ar_the_same_tokens(run, pair):
    """By default `sampler-match` verifies, and the panel says so."""
    sampled = [*pair, "--temperature", "0.9", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.01"]
    first, again, other = (
        json.loads(run(PROMPT, *sampled, "--seed", seed, "--json", "--verify").stdout)
        for seed in (3, 3, 4)
    )
    assert first["verdict"] == "exact"
    assert first["token_ids"] == again["token_ids"] != other["token_ids"]
    assert [first[name] for name in ("temperature", "top_k", "top_p", "min_p", "seed")] == [
        0.9, 40, 0.9, 0.01, 3,
    ]  # fmt: skip
    panel = " ".join(run(PROMPT, *sampled).output.replace("│", " ").split())
    assert "--verifier sampler-match" in panel
    assert "temperature=0.9,top_k=40,top_p=0.9,min_p=0.01, seed=0" in panel


def test_ar_is_inconclusive_and_has_tau_1(run, pair):
    found = json.loads(run(PROMPT, *pair, "--drafter", "none", "--verify", "--json").stdout)
    assert found["verdict"] == "inconclusive"
    assert found["tau"] == 1


def test_a_divergence_is_shown_and_fails(run, pair, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import toolkit\nfrom saboteurs.verifiers import OneTooMany\n"
        "@toolkit.hookimpl\ndef strategies():\n    return [OneTooMany]\n"
    )
    result = run(PROMPT, *pair, "--plugin", wrong, "--verifier", "one-too-many", "--verify")
    assert result.exit_code == 1
    assert "first difference at token" in result.output
    assert "margin" in result.output
    assert "'w" in result.output


@pytest.mark.parametrize("by", ["argument", "file", "stdin"])
def test_a_prompt_comes_three_ways(run, pair, tmp_path, by):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT + "\n")
    result = {
        "argument": lambda: run(PROMPT, *pair, "--json"),
        "file": lambda: run("--prompt-file", file, *pair, "--json"),
        "stdin": lambda: run(*pair, "--json", stdin=PROMPT + "\n"),
    }[by]()
    assert (
        json.loads(result.stdout)["token_ids"]
        == json.loads(run(PROMPT, *pair, "--json").stdout)["token_ids"]
    )


def test_no_prompt_at_all_runs_on_the_built_in_one(run, pair):
    assert run(*pair).exit_code == 0


def test_out_is_one_parquet_file(run, pair, tmp_path):
    out = tmp_path / "r.parquet"
    assert run(PROMPT, *pair, "--verify", "--out", out).exit_code == 0
    row = pq.read_table(out).to_pylist()[0]
    assert row["verdict"] == "exact"
    assert row["shaper"] == "adaptive"
    assert row["kv"] == "full"
    assert len(row["token_ids"]) == row["accepted"] + row["steps"] + 1


def test_out_is_a_folder_of_tables(run, pair, tmp_path):
    assert run(PROMPT, *pair, "--out", tmp_path / "results").exit_code == 0
    tables = {f.name: pq.read_table(f) for f in (tmp_path / "results").iterdir()}
    assert {name: len(t) for name, t in tables.items() if name in ("runs", "requests")} == {
        "runs": 1,
        "requests": 1,
    }
    request = tables["requests"].to_pylist()[0]
    assert len(tables["steps"]) == request["steps"]
    assert set(tables) == {"runs", "requests", "steps"}


def test_nodes_are_recorded_on_request(run, pair, tmp_path):
    args = (PROMPT, *pair, "--record", "nodes", "--out", tmp_path / "results")
    assert run(*args).exit_code == 0
    request = pq.read_table(tmp_path / "results" / "requests").to_pylist()[0]
    fates = pq.read_table(tmp_path / "results" / "nodes")["fate"].to_pylist()
    assert fates.count("root") == fates.count("bonus") == request["steps"]
    assert fates.count("accepted") == request["accepted"]


@pytest.mark.parametrize("out", [(), ("--out", "r.parquet")])
def test_nodes_need_a_folder(run, pair, out):
    result = run(PROMPT, *pair, "--record", "nodes", *out)
    assert result.exit_code == 2
    assert "add --out FOLDER" in " ".join(result.output.split())


BAD = {
    "unknown shaper": (["hi", "--shaper", "adaptve"], "did you mean adaptive"),
    "unknown option": (
        ["hi", "--shaper", "adaptive:budgt=3"],
        "has no option 'budgt'; it has: depth",
    ),
    "ill-typed option": (["hi", "--shaper", "fixed:depth=x"], "'depth' takes int, got 'x'"),
    "out of range": (["hi", "--shaper", "fixed:depth=0"], "depth"),
    "given twice": (["hi", "--shaper", "fixed:depth=1,depth=2"], "twice"),
    "unknown policy": (["hi", "--kv", "windo"], "window"),
    "unknown verifier": (["hi", "--verifier", "gredy"], "greedy"),
    "brackets": (["hi", "--drafter", "model:["], "brackets"),
    "missing folder": (["hi", "--target", "./nowhere"], "no model folder ./nowhere"),
    "unknown model": (["hi", "--target", "pythia-70"], "did you mean pythia-70m"),
    "unreachable model": (["hi", "--target", "nobody/nothing"], "not here and not reachable"),
    "empty prompt": ([""], "empty"),
    "missing prompt file": (["--prompt-file", "/nowhere/p.txt"], "/nowhere/p.txt"),
    "no tokens": (["hi", "--max-new-tokens", "0"], "max-new-tokens"),
    "no such device": (["hi", "--device", "tpu"], "tpu"),
    "no such dtype": (["hi", "--dtype", "int3"], "int3"),
    "missing parent": (["hi", "--out", "/nowhere/r.parquet"], "no folder /nowhere"),
    "a temperature below 0": (["hi", "--temperature=-1"], "temperature=-1.0: expected 0 (greedy)"),
    "no number": (["hi", "--temperature", "nan"], "'nan' is not a number"),
    "a temperature without end": (["hi", "--temperature", "inf"], "temperature=inf: expected 0"),
    "top-p of nothing": (["hi", "--temperature", "1", "--top-p", "0"], "top_p=0.0: expected"),
    "top-p above 1": (["hi", "--temperature", "1", "--top-p", "1.1"], "top_p=1.1: expected"),
    "top-k below 0": (["hi", "--temperature", "1", "--top-k=-1"], "top-k"),
    "min-p above 1": (["hi", "--temperature", "1", "--min-p", "2"], "min_p=2.0: expected"),
    "top-p without a temperature": (["hi", "--top-p", "0.9"], "give a temperature above 0, too"),
    "greedy with a temperature": (
        ["hi", "--temperature", "1", "--verifier", "greedy"],
        "`--verifier sampler-match` fits any temperature",
    ),
    "missing plugin": (["hi", "--plugin", "/nowhere/p.py"], "no plugin file /nowhere/p.py"),
}


@pytest.mark.parametrize(("args", "word"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(run, args, word):
    result = run(*args)
    assert result.exit_code == 2
    assert word in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert len(result.output.splitlines()) <= 5


def test_a_folder_without_a_model_is_refused(run, tmp_path):
    result = run("hi", "--target", tmp_path)
    assert result.exit_code == 2
    assert "no config.json" in result.output


def test_a_config_without_weights_is_refused(run, target, tmp_path):
    for file in Path(target).glob("*.json"):
        shutil.copy(file, tmp_path)
    result = run(PROMPT, "--target", tmp_path)
    assert result.exit_code == 2
    assert "no weights" in result.output


def test_another_vocabulary_is_refused(run, target, tmp_path):
    other = save(noisy("gpt_neox", 3), tmp_path / "other", words=60)
    text = (tmp_path / "other" / "tokenizer.json").read_text().replace('"w7"', '"x7"')
    (tmp_path / "other" / "tokenizer.json").write_text(text)
    result = run(PROMPT, "--target", target, "--drafter", other)
    assert result.exit_code == 2
    assert "vocabulary" in result.output


def test_a_prompt_longer_than_the_positions_is_refused(run, target):
    result = run("w1 " * 300, "--target", target)
    assert result.exit_code == 2
    assert "300 tokens" in result.output
    assert "256 positions" in result.output


def test_an_empty_prompt_file_is_refused(run, tmp_path):
    (tmp_path / "empty").touch()
    result = run("--prompt-file", tmp_path / "empty")
    assert result.exit_code == 2
    assert "empty" in result.output


def test_an_existing_folder_is_not_written_into(run, tmp_path):
    result = run("hi", "--out", tmp_path)
    assert result.exit_code == 2
    assert "folder" in result.output


def test_a_plugin_that_does_not_import_is_named(run, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    result = run("hi", "--plugin", tmp_path / "broken.py")
    assert result.exit_code == 2
    assert "nothing_like_this" in result.output
    assert "Traceback" not in result.output


def edited(model, folder, **changes):
    """A copy of a model folder with other values in its config."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def refused(result, word, lines=3):
    assert result.exit_code == 2, result.output
    assert word in result.output
    assert isinstance(result.exception, SystemExit)
    assert len(result.output.splitlines()) <= lines


def test_a_checkpoint_that_lacks_weights_is_refused(run, target, tmp_path):
    folder = edited(target, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    (gone, *_) = [name for name in weights if "layers.1" in name]
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(run(PROMPT, "--target", folder), "lacks 1 of its weights")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"intermediate_size": 40}, "no weights that load"),
        ({"num_attention_heads": 0}, "cannot be used"),
        ({"model_type": "nothing-known"}, "cannot be used"),
        ({"model_type": "mamba"}, "recurrent state"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(run, target, tmp_path, changes, word):
    refused(run(PROMPT, "--target", edited(target, tmp_path / "m", **changes)), word)


def test_truncated_weights_are_refused(run, target, tmp_path):
    folder = edited(target, tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    refused(run(PROMPT, "--target", folder), "no weights that load")


def test_a_models_own_code_is_never_run(run, target, tmp_path):
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    folder = edited(target, tmp_path / "m", auto_map=auto, model_type="evil")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    result = run(PROMPT, "--target", folder, stdin="y\n")
    assert result.exit_code == 2
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_tokenizer_says_so(run, target, tmp_path):
    folder = edited(target, tmp_path / "m")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refused(run(PROMPT, "--target", folder), "has no tokenizer")


def test_bytes_that_are_no_text_are_refused(run, tmp_path):
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    refused(run("--prompt-file", tmp_path / "p.txt"), "not UTF-8")
    refused(run(stdin=b"caf\xe9"), "not UTF-8")
    refused(run("caf\udce9"), "not UTF-8")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import sys; sys.exit(0)", "does not import"),
        ("x = 1", "provides nothing"),
        ("import toolkit\n@toolkit.hookimpl\ndef strategies():\n    return [int]", "not a strategy"),
    ],
)
def test_a_plugin_file_that_is_none_is_refused(run, tmp_path, body, word):
    (tmp_path / "p.py").write_text(body + "\n")
    refused(run("hi", "--plugin", tmp_path / "p.py"), word, lines=5)  # its own line among them


def test_an_unwritable_place_is_refused(run):
    if not Path("/proc").is_dir():
        pytest.skip("no /proc here")
    refused(run("hi", "--out", "/proc/x.parquet"), "cannot be written")


@pytest.mark.parametrize("option", ["--target", "--drafter"])
def test_a_name_of_any_length_is_an_error_and_no_crash(run, option):
    result = run("hi", option, "x" * 5000)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "args",
    [["--shaper", "adaptive:window=99999999999999999999"], ["--target", ""], ["--drafter", ""]],
)
def test_odd_values_are_refused(run, args):
    result = run("hi", *args)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


def test_a_missing_device_is_refused(run, target):
    import torch

    if torch.cuda.is_available():
        pytest.skip("a cuda device is here")
    result = run("hi", "--target", target, "--device", "cuda")
    assert result.exit_code == 2
    assert "no cuda device" in result.output


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_prompt_has_no_byte_order_mark_and_no_last_line_break(run, pair, tmp_path, mark, end):
    (tmp_path / "p.txt").write_bytes(mark + f"{PROMPT}{end}".encode())
    wanted = json.loads(run(PROMPT, *pair, "--json").stdout)["text"]
    for given in (["--prompt-file", tmp_path / "p.txt"], []):
        result = run(*given, *pair, "--json", stdin=(tmp_path / "p.txt").read_bytes())
        assert json.loads(result.stdout)["text"] == wanted


def test_a_file_of_nothing_but_a_mark_and_a_line_break_is_empty(run, tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    refused(run("--prompt-file", tmp_path / "p.txt"), "is empty")


@pytest.mark.parametrize("number", ["1_0", "٣", "²", "1e3", "", " 5"])
def test_a_number_is_plain_digits(run, number):
    refused(run("hi", "--max-new-tokens", number), "max-new-tokens", lines=5)


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


def test_an_error_in_a_plugin_is_told_with_its_own_lines(run, pair, tmp_path):
    file = tmp_path / "fails.py"
    file.write_text(INTERRUPTS.format(what="1 / 0"))
    result = run(PROMPT, *pair, "--plugin", file, "--shaper", "interrupts")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Error: shaper 'interrupts' failed in `grow`:" in result.output
    assert f'File "{file}"' in result.output
    assert "engine.py" not in result.output


@pytest.mark.parametrize("given", [["--target", "phi"], ["--target", "phi", "--drafter", "none"]])
def test_an_executor_that_cannot_run_a_family_is_refused_before_weights_load(
    run, tmp_path, monkeypatch, given
):
    folder = save(tiny("phi", 0), tmp_path / "phi")
    (tmp_path / "phi" / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    result = run("hi", *given, "--executor", "functional")
    refused(result, "no functional executor for this phi model: no description of phi layers")
    assert "no weights that load" in run("hi", "--target", folder).output


def test_a_config_of_ten_million_layers_is_refused_at_once(run, target, tmp_path):
    folder = edited(target, tmp_path / "m", num_hidden_layers=10**7)
    refused(run(PROMPT, "--target", folder), "its num_hidden_layers is 10000000")


@pytest.mark.installed
@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
def test_a_terminal_is_told_what_takes_long_and_json_is_not(pair, tmp_path, json_too):
    pty = pytest.importorskip("pty")
    terminal, stderr = pty.openpty()
    code = "from toolkit.cli import main; main(prog_name='toolkit')"
    with open(stderr, "wb") as file:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, "run", PROMPT, *pair, *json_too],
            stdout=subprocess.PIPE, stderr=file, timeout=120, env={**os.environ, "TERM": "xterm"},
        )  # fmt: skip
    os.set_blocking(terminal, False)
    shown = os.read(terminal, 1 << 16)
    os.close(terminal)
    assert done.returncode == 0
    assert b"Load" not in done.stdout
    told = [line[:40].encode() in shown for line in (f"Looking at {pair[1]}", f"Loading {pair[3]}")]
    assert told == [not json_too] * 2
    assert shown.endswith(b"\r\x1b[1A\x1b[2K") is not bool(json_too)  # the last line is gone, too


@pytest.mark.installed
def test_the_promised_command_works_as_written(target, drafter, tmp_path):
    """`toolkit run --drafter pythia-70m --shaper adaptive --kv h2o`, in a process of its own.

    Tiny models stand behind the aliases, in a hub cache such as a download leaves.
    """
    hub = tmp_path / "hub"
    for name, folder in (("pythia-70m", drafter), ("pythia-2.8b", target)):
        repo = hub / f"models--EleutherAI--{name}"
        shutil.copytree(folder, repo / "snapshots" / "0123abcd")
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("0123abcd")
    toolkit = shutil.which("toolkit", path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [toolkit, *"run --drafter pythia-70m --shaper adaptive --kv h2o".split()],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "HF_HUB_CACHE": str(hub),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    assert "pythia-2.8b (EleutherAI/pythia-2.8b)" in done.stdout
    assert "--drafter model:pythia-70m --shaper adaptive" in done.stdout


TEMPLATE = (
    "{% for m in messages %}{{ {'user': 'w2', 'assistant': 'w3', 'system': 'w4'}[m.role] }} "
    "{{ m.content }} {% endfor %}{% if short %}w6 {% endif %}w3"
)


@pytest.fixture(scope="session")
def instruct(target, tmp_path_factory):
    """A model whose name and tokenizer say that it answers messages."""
    folder = tmp_path_factory.mktemp("models") / "tiny-instruct"
    shutil.copytree(target, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def tokens(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["token_ids"]


def test_an_instruct_model_gets_messages_unless_it_is_told_otherwise(run, pair, instruct):
    chat, plain = run(PROMPT, *pair, "--target", instruct), run(PROMPT, *pair)
    assert "8 tokens, as messages, in the model's chat template" in shown(chat)
    assert "as messages" not in shown(plain)
    as_text = ["--target", instruct, "--no-chat"]
    assert "6 tokens, as it is" in shown(run(PROMPT, *pair, *as_text))
    by_hand = tokens(run(f"w2 {PROMPT} w3", *pair, "--json"))
    assert tokens(run(PROMPT, *pair, "--target", instruct, "--json")) == by_hand
    assert tokens(run(PROMPT, *pair, *as_text, "--json")) == tokens(run(PROMPT, *pair, "--json"))


def shown(result):
    return " ".join(result.output.replace("│", " ").split())


def test_a_system_message_and_a_variable_reach_the_template(run, pair, instruct):
    given = ["--system", "w7", "--template-arg", "short=true", "--target", instruct, "--json"]
    by_hand = f"w4 w7 w2 {PROMPT} w6 w3"
    assert tokens(run(PROMPT, *pair, *given)) == tokens(run(by_hand, *pair, "--json"))


def test_messages_without_a_template_are_refused(run, target):
    for given in (["--chat"], ["--system", "w7"], ["--template-arg", "short=1"]):
        refused(run(PROMPT, "--target", target, *given), "no chat template")
    refused(run("hi", "--no-chat", "--system", "w7"), "--no-chat leaves it out")
    refused(run("hi", "--template-arg", "short"), "is not NAME=VALUE", lines=5)


def test_a_stop_string_ends_the_output(run, pair):
    free = json.loads(run(PROMPT, *pair, "--json").stdout)
    words = free["text"].split()
    stop = f"{words[4]} {words[5]}"
    found = run(PROMPT, *pair, "--stop", "nowhere", "--stop", stop, "--verify", "--json")
    found = json.loads(found.stdout)
    at = free["text"].index(stop)
    assert (found["stop_reason"], found["verdict"]) == ("stop", "exact")
    assert found["text"] == free["text"][:at]
    assert found["token_ids"] == free["token_ids"][: len(found["token_ids"])]


def test_an_empty_stop_string_is_refused(run, pair):
    refused(run(PROMPT, *pair, "--stop", ""), "at least one character")


@pytest.fixture
def rows(tmp_path):
    """Writes a .jsonl file."""

    def write(*rows, name="prompts.jsonl"):
        file = tmp_path / name
        file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return file

    return write


PROMPTS = ["w5 w9", "w33 w4 w9", "w7"]


def objects(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_row_of_a_file_is_a_request_of_its_own(run, pair, rows, tmp_path):
    file = rows(*({"prompt": prompt, "id": 3} for prompt in PROMPTS), "")
    out = tmp_path / "out"
    found = objects(run("--prompt-file", file, *pair, "--json", "--out", out, "--verify"))
    alone = [tokens(run(prompt, *pair, "--json")) for prompt in PROMPTS]
    assert [one["token_ids"] for one in found] == alone
    assert {one["verdict"] for one in found} == {"exact"}
    table = pq.read_table(out / "requests").to_pylist()
    assert [row["token_ids"] for row in table] == alone
    assert [row["request_id"] for row in table] == [0, 1, 2]


def test_many_prompts_end_with_one_panel(run, pair, rows):
    file = rows(*({"text": prompt} for prompt in PROMPTS))
    result = run("--prompt-file", file, "--field", "text", *pair, "--verify")
    assert result.exit_code == 0, result.output
    assert "[3/3] " in result.output
    assert "3 prompts, " in result.output
    assert "3 exact" in result.output
    assert result.output.count("╭") == 1


def test_a_row_may_hold_messages(run, pair, rows, instruct):
    file = rows({"messages": [{"role": "user", "content": PROMPT}]})
    given = ["--target", instruct, "--json"]
    found = tokens(run("--prompt-file", file, *pair, *given))
    assert found == tokens(run(PROMPT, *pair, *given))


@pytest.mark.parametrize(
    ("lines", "given", "said"),
    [
        ([{"prompt": "w5"}, "w5"], [], "line 2: not JSON"),
        ([["w5"]], [], "line 1: a row is a JSON object"),
        ([{"text": "w5"}], [], "line 1: no field 'prompt' or 'messages'; there are text"),
        ([{"text": "w5"}], ["--field", "txt"], "line 1: no field 'txt'"),
        ([{"prompt": 5}], [], "line 1: field 'prompt' holds neither"),
        ([{"prompt": ""}], [], "line 1: field 'prompt' holds neither"),
        ([""], [], "is empty"),
        ([{"prompt": "w5"}, {"prompt": "w5 " * 300}], [], "prompt 2 of 2: the prompt has 300"),
        ([{"prompt": "w5"}, {"messages": [{"role": "user", "content": "w5"}]}], [], "chat template"),
    ],
)
def test_a_bad_row_is_named_before_a_model_loads(run, target, rows, tmp_path, lines, given, said):
    folder = tmp_path / "m"
    shutil.copytree(target, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    refused(run("--prompt-file", rows(*lines), "--target", folder, *given), said)


def test_a_field_needs_a_file_of_rows(run):
    refused(run("hi", "--field", "text"), "--field names a field of a .jsonl file")


def test_ctrl_c_keeps_the_requests_that_are_finished(run, pair, interrupts, rows, tmp_path):
    out = tmp_path / "r.parquet"
    file = rows(*({"prompt": prompt} for prompt in PROMPTS))
    plugin = Path(interrupts[1])  # counts the steps of all requests
    text = plugin.read_text().replace("self.steps += 1", "STEPS.append(1)")
    plugin.write_text(text.replace("self.steps >", "len(STEPS) >") + "\nSTEPS = []\n")
    result = run("--prompt-file", file, *pair, *interrupts, "interrupts:after=30", "--out", out)
    assert result.exit_code == 130, result.output
    first, second = pq.read_table(out).to_pylist()
    assert (first["stop_reason"], len(first["token_ids"])) == ("length", 24)
    assert (second["stop_reason"], len(second["token_ids"])) == ("interrupted", 8)
    assert "2 prompts, 32 tokens, interrupted" in result.output
