"""Models are found without their weights, loaded once asked for, and errors are one line."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers as hf

from toolkit.conformance.models import VOCABULARY, tiny
from toolkit.errors import ModelError, NoMemoryError
from toolkit.runtime.models.load import find, load, positions_of, prepare
from toolkit.runtime.models.locate import locate
from toolkit.runtime.numerics import find_level


def test_a_refusal_needs_no_weights(tmp_path):
    config = hf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot decode trees: it keeps a recurrent state"):
        find(locate(str(tmp_path), {}))


@pytest.fixture
def folder(tmp_path):
    """A saved tiny model, without a tokenizer."""
    copy.deepcopy(tiny("llama")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_is_found_and_loaded(folder):
    found = find(locate(str(folder), {}))
    assert (found.vocabulary, found.positions, found.tokenizer) == (VOCABULARY, 256, None)
    loaded = load(found, torch.device("cpu"), None)
    assert (loaded.layers, loaded.dtype) == (2, torch.float64)
    assert load(found, torch.device("cpu"), torch.float32).dtype == torch.float32


def test_a_config_without_weights(folder):
    (folder / "model.safetensors").unlink()
    found = find(locate(str(folder), {}))
    with pytest.raises(ModelError, match="has a config but no weights that load") as caught:
        load(found, torch.device("cpu"), None)
    assert "\n" not in str(caught.value)


def test_weights_that_the_device_has_no_memory_for(folder, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(hf.LlamaForCausalLM, "to", full)
    with pytest.raises(NoMemoryError, match="do not fit into the memory of cpu: use a lower precision"):
        load(find(locate(str(folder), {})), torch.device("cpu"), None)


def test_weights_that_are_cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="has a config but no weights that load"):
        load(find(locate(str(folder), {})), torch.device("cpu"), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not a valid JSON file"),
        (json.dumps({"model_type": "no-such-type"}), "has model type `no-such-type`"),
        (json.dumps({}), "Unrecognized model"),
    ],
)
def test_a_config_that_is_none(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=said) as caught:
        find(locate(str(tmp_path), {}))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(ModelError, match=f"no config.json in {tmp_path}: a model folder is what"):
        find(locate(str(tmp_path), {}))


@pytest.mark.parametrize("name", ["target", "middle", "drafter"])
def test_the_shipped_models_are_found(name):
    found = find(locate(name, {name: f"package:{name}"}))
    assert found.vocabulary >= len(found.tokenizer)


def test_positions():
    assert positions_of(hf.LlamaConfig(max_position_embeddings=77)) == 77
    assert positions_of(hf.GPT2Config(n_positions=55)) == 55
    assert positions_of(hf.PretrainedConfig()) > 10**6


@pytest.mark.parametrize(
    ("dtype", "level"),
    [(torch.float64, "fp32"), (torch.half, "tie")],
)
def test_numerics_follow_a_dtype_without_kernels(dtype, level):
    assert find_level(prepare("mine", copy.deepcopy(tiny("llama")).to(dtype))).name == level


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "num_hidden_layers": 10**7},
        {"model_type": "gpt2", "n_layer": 10**9},
        {"model_type": "mixtral", "num_local_experts": 10**6},
        {"model_type": "gemma3", "text_config": {"num_hidden_layers": 10**7}},
    ],
)
def test_a_config_that_would_take_minutes_to_build(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"and no model has more than 10000$"):
        find(locate(str(tmp_path), {}))


def test_an_executor_that_cannot_run_a_family_needs_no_weights(tmp_path):
    copy.deepcopy(tiny("phi")).config.save_pretrained(tmp_path)
    place = locate(str(tmp_path), {})
    assert find(place).config.model_type == "phi"
    with pytest.raises(ModelError, match="no functional executor for this phi model: no descr"):
        find(place, "functional")


def test_first_loads_in_several_threads_at_once(folder):
    """transformers builds modules on the meta device for the whole process while it loads."""
    found = find(locate(str(folder), {}))
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: load(found, torch.device("cpu"), None), range(8)))
    weights = [model.module.lm_head.weight for model in models]
    assert all(torch.equal(weight, weights[0]) for weight in weights)
