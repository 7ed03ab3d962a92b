"""The command line takes the model's own generation config, says so, and lets options win."""

import json
from shutil import copytree

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from transformers import GenerationConfig

from toolkit.cli import main

PROMPT = "w5 w9 w33 w4 w9 w33"
QWEN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.3}
OWN = "temperature=0.7,top_k=50,top_p=0.8,repetition_penalty=1.3"


@pytest.fixture
def own(target, drafter, tmp_path):
    """`own(options)`: words that name a target with these in its generation config, and a drafter."""

    def make(**options):
        folder = tmp_path / "model"
        copytree(target, folder)
        GenerationConfig(eos_token_id=0, **options).save_pretrained(folder)
        words = ["--target", folder, "--drafter", drafter, "--dtype", "fp64"]
        return [*words, "--max-new-tokens", "12"]

    return make


def flat(result):
    return " ".join(result.output.replace("│", " ").split())


def test_the_models_sampling_and_processors_are_used_and_said(run, own, tmp_path):
    words, out = own(**QWEN), tmp_path / "out.parquet"
    shown = run(PROMPT, *words, "--verify", "--out", out)
    assert shown.exit_code == 0, shown.output
    assert f"generation config {OWN} specs" in flat(shown)
    assert "sampling temperature=0.7,top_k=50,top_p=0.8, seed=0" in flat(shown)
    assert "exact: all" in shown.output
    (row,) = pq.read_table(out).to_pylist()
    found = json.loads(run(PROMPT, *words, "--json").stdout)
    for held in (row, found):
        assert [held[name] for name in ("temperature", "top_k", "top_p", "min_p")] == [0.7, 50, 0.8, 0]
        assert held["logits_processors"] == "repetition_penalty=1.3"
    assert row["token_ids"] == found["token_ids"]
    said = run(*words, "--explain").output
    assert f"decoding  {OWN}: the target's generation config says so" in said
    assert "verifier  sampler-match: the temperature is 0.7" in said


def test_an_option_wins_and_temperature_0_is_greedy(run, own):
    words = own(**QWEN)
    hotter = run(PROMPT, *words, "--temperature", "2")
    assert "generation config top_k=50,top_p=0.8,repetition_penalty=1.3 specs" in flat(hotter)
    greedy = run(PROMPT, *words, "--temperature", "0", "--verify")
    assert "generation config repetition_penalty=1.3 specs" in flat(greedy)
    assert "--verifier greedy" in flat(greedy)
    assert "exact: all" in greedy.output


def test_a_model_that_says_nothing_shows_nothing(run, pair):
    assert "generation config" not in flat(run(PROMPT, *pair))
    found = json.loads(run(PROMPT, *pair, "--json").stdout)
    assert (found["temperature"], found["logits_processors"]) == (0, "")
    assert "generation config" not in run(*pair, "--explain").output


def test_what_cannot_be_honoured_is_refused_before_weights_load(run, own, refused):
    words = own(num_beams=4)
    (words[1] / "model.safetensors").unlink()
    refused(run(PROMPT, *words), "num_beams=4 is not supported")


def test_chat_samples_as_the_model_does(own):
    words = own(**QWEN)
    (words[1] / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    answers = [
        CliRunner().invoke(main, ["chat", *map(str, [*words, *more])], input="w5 w9\n").output
        for more in ([], ["--temperature", "0.7", "--top-k", "50"], ["--temperature", "0"])
    ]
    first, given, greedy = (answer.split("[")[0] for answer in answers)
    assert first == given != greedy
