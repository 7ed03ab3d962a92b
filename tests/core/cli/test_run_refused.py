"""`toolkit run`: bad input is one clear error, before weights load."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from toolkit.conformance.models import noisy, tiny

PROMPT = "w5 w9 w33 w4 w9 w33"

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


def test_another_vocabulary_is_translated(run, target, tmp_path, save_model):
    other = save_model(noisy("gpt_neox", 3), tmp_path / "other", words=60)
    text = (tmp_path / "other" / "tokenizer.json").read_text().replace('"w7"', '"x7"')
    (tmp_path / "other" / "tokenizer.json").write_text(text)
    result = run(PROMPT, "--target", target, "--drafter", other)
    assert result.exit_code == 0, result.output


def test_a_prompt_longer_than_the_positions_is_refused(run, target):
    result = run("w1 " * 300, "--target", target)
    assert result.exit_code == 2
    assert "300 tokens" in result.output
    assert "256 positions" in result.output


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


def test_a_checkpoint_that_lacks_weights_is_refused(run, target, tmp_path, refused):
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
def test_a_config_that_does_not_fit_is_refused(run, target, tmp_path, changes, word, refused):
    refused(run(PROMPT, "--target", edited(target, tmp_path / "m", **changes)), word)


def test_truncated_weights_are_refused(run, target, tmp_path, refused):
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


def test_a_model_without_a_tokenizer_says_so(run, target, tmp_path, refused):
    folder = edited(target, tmp_path / "m")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refused(run(PROMPT, "--target", folder), "has no tokenizer")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import sys; sys.exit(0)", "does not import"),
        ("x = 1", "provides nothing"),
        (
            "import toolkit\n@toolkit.hookimpl\ndef strategies():\n    return [int]",
            "not a strategy",
        ),
    ],
)
def test_a_plugin_file_that_is_none_is_refused(run, tmp_path, body, word, refused):
    (tmp_path / "p.py").write_text(body + "\n")
    refused(run("hi", "--plugin", tmp_path / "p.py"), word, lines=5)  # its own line among them


def test_an_unwritable_place_is_refused(run, refused):
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


@pytest.mark.parametrize("number", ["1_0", "٣", "²", "1e3", "", " 5"])
def test_a_number_is_plain_digits(run, number, refused):
    refused(run("hi", "--max-new-tokens", number), "max-new-tokens", lines=5)


@pytest.mark.parametrize("given", [["--target", "phi"], ["--target", "phi", "--drafter", "none"]])
def test_an_executor_that_cannot_run_a_family_is_refused_before_weights_load(
    run, tmp_path, monkeypatch, given, refused, save_model
):
    folder = save_model(tiny("phi", 0), tmp_path / "phi")
    (tmp_path / "phi" / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    result = run("hi", *given, "--executor", "functional")
    refused(result, "no functional executor for this phi model: no description of phi layers")
    assert "no weights that load" in run("hi", "--target", folder).output


def test_a_config_of_ten_million_layers_is_refused_at_once(run, target, tmp_path, refused):
    folder = edited(target, tmp_path / "m", num_hidden_layers=10**7)
    refused(run(PROMPT, "--target", folder), "its num_hidden_layers is 10000000")
