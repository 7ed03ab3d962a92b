"""`toolkit run`: what it prints and writes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolkit.conformance.models import noisy

PROMPT = "w5 w9 w33 w4 w9 w33"


def test_streams_text_and_ends_with_a_panel(run, pair):
    result = run(PROMPT, *pair, "--verify", "--stats")
    assert result.exit_code == 0, result.output
    for word in (
        "mean acceptance length",
        "by position 1: ",
        "draft level",
        "break-even τ ",
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
        "steps_run",
        "tokens_per_s",
        "ttft_ms",
        "verdict",
        "numerics",
        "specs",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "logits_processors",
        "seed",
        "metrics",
        "acceptance_by_position",
        "accepted_lengths",
    ]
    assert sum(found["accepted_lengths"]) <= found["steps"]
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


def test_an_existing_folder_is_not_written_into(run, tmp_path):
    result = run("hi", "--out", tmp_path)
    assert result.exit_code == 2
    assert "folder" in result.output


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


def test_an_empty_stop_string_is_refused(run, pair, refused):
    refused(run(PROMPT, *pair, "--stop", ""), "at least one character")


@pytest.mark.parametrize(("prefix", "said"), [("w", "the 96 tokens of both"), ("x", "by text")])
def test_a_drafter_with_another_tokenizer(run, target, save_model, tmp_path, prefix, said):
    """The same words with other ids, and other words."""
    small = save_model(noisy("gpt_neox", 3), tmp_path)
    words = {"<end>": 0, **{f"{prefix}{97 - i}": i for i in range(1, 97)}}
    inner = Tokenizer(models.WordLevel(words, unk_token=f"{prefix}1"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>").save_pretrained(small)
    result = run(PROMPT, "--target", target, "--drafter", small, "--dtype", "fp64", "--verify")
    text = " ".join(result.output.replace("│", " ").split())
    assert re.search(f"has another one and drafts {said}", text)
    assert "exact: all" in text
