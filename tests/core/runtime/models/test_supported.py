"""Architectures that cannot decode trees are rejected with an error that names the reason."""

import pytest
import transformers as hf

from toolkit import Pipeline
from toolkit.conformance.models import FAMILIES
from toolkit.errors import MismatchError, ModelError
from toolkit.runtime.models.supported import require_kv_supported, require_supported

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}
ROPE = {"rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda: hf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2),
         "it keeps a recurrent state, which cannot forget a rejected token"),
        (lambda: hf.Mamba2Config(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_heads=8,
                                 head_dim=8),
         "it keeps a recurrent state"),
        (lambda: hf.RwkvConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2),
         "it keeps a recurrent state"),
        (lambda: hf.RecurrentGemmaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=3),
         "it keeps a recurrent state"),
        (lambda: hf.JambaConfig(**SMALL), "it keeps a recurrent state"),
        (lambda: hf.FalconH1Config(**SMALL), "it keeps a recurrent state"),
        (lambda: hf.Qwen3NextConfig(**SMALL), "it keeps a recurrent state"),
        (lambda: hf.Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
         "some of its layers keep a state other than keys and values"),
        (lambda: hf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
         "it takes no position_ids, so a node's position cannot be its depth"),
        (lambda: hf.MptConfig(vocab_size=97, d_model=32, n_layers=2, n_heads=4),
         "it takes no position_ids"),
        (lambda: hf.Llama4TextConfig(**SMALL), "it attends in chunks"),
        (lambda: hf.LlamaConfig(**SMALL, rope_parameters={**ROPE, "rope_type": "dynamic"}),
         "its rotary frequencies move with the longest position of a pass"),
        (lambda: hf.BertConfig(vocab_size=97, hidden_size=32, num_attention_heads=4),
         "cannot decode trees"),  # attends in both directions
        (lambda: hf.RobertaConfig(vocab_size=97, hidden_size=32, num_attention_heads=4,
                                  is_decoder=True),
         "cannot decode trees"),  # its positions start at padding_idx + 1
        (lambda: hf.BertGenerationConfig(vocab_size=97, hidden_size=32, num_attention_heads=4,
                                         num_hidden_layers=1, intermediate_size=48),
         "it reads both ways"),
        (lambda: hf.DogeConfig(**SMALL), "it makes an attention mask of its own"),
        (lambda: hf.T5Config(vocab_size=97), "transformers has no decoder-only language model"),
        (hf.CLIPVisionConfig, "transformers has no decoder-only language model"),
    ],
)
def test_what_cannot_decode_trees_is_refused_with_the_reason(config, said):
    made = config()
    with pytest.raises(ModelError) as caught:
        require_supported(made, "mine")
    message = str(caught.value)
    assert message.startswith(f"model 'mine' ({made.model_type}) cannot decode trees: ")
    assert said in message


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_can_is_not_refused(family):
    require_supported(FAMILIES[family](), family)


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_rotary_frequencies_that_stay_are_fine(kind):
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    rope = {**ROPE, **more, "rope_type": kind, "original_max_position_embeddings": 64}
    require_supported(hf.LlamaConfig(**SMALL, rope_parameters=rope), kind)


class Model:
    """A model as far as a KV policy asks for it."""

    name = "theirs"

    def __init__(self, config, positions=2048):
        self.config, self.positions = config, positions


@pytest.mark.parametrize(
    ("spec", "config", "said"),
    [
        ("streaming:positions=cache", hf.GPT2Config, "its positions are learned"),
        ("streaming:positions=cache", hf.OPTConfig, "positions=absolute works"),
        ("streaming:positions=cache", hf.CohereConfig, "how cohere rotates its keys"),
        ("expected", hf.CohereConfig, "how cohere rotates its keys is not known"),
        ("streaming:budget=2040,positions=cache", lambda: hf.LlamaConfig(**SMALL), "lower one"),
        ("h2o", hf.Gemma3nTextConfig, "another layer's KV"),
        ("knorm", lambda: hf.MistralConfig(sliding_window=64), "have a sliding window of their own"),
    ],
)
def test_a_policy_that_cannot_work_here_is_refused_with_the_reason(registry, spec, config, said):
    with pytest.raises(MismatchError, match=r"cannot use KV policy .* on model 'theirs'") as refused:
        require_kv_supported(registry.resolve("kv", spec), Model(config()))
    assert said in str(refused.value)


@pytest.mark.parametrize("spec", ["full", "window", "streaming", "h2o", "knorm"])
@pytest.mark.parametrize("config", [hf.GPT2Config, hf.OPTConfig, hf.CohereConfig, hf.LlamaConfig])
def test_most_policies_work_anywhere(registry, spec, config):
    require_kv_supported(registry.resolve("kv", spec), Model(config()))


def test_expected_attention_needs_no_rotary(registry):
    require_kv_supported(registry.resolve("kv", "expected"), Model(hf.GPT2Config()))


def test_dynamic_rotary_is_refused_with_any_policy():
    config = hf.LlamaConfig(**SMALL, rope_parameters={**ROPE, "rope_type": "dynamic"})
    with pytest.raises(ModelError, match="rotary frequencies move"):
        require_supported(config, "theirs")


def test_a_pipeline_refuses_before_weights_load(registry, tmp_path):
    """The folder has a config and no weights."""
    hf.GPT2Config(n_layer=1, n_head=2, n_embd=8).save_pretrained(tmp_path)
    with pytest.raises(MismatchError, match="its positions are learned"):
        Pipeline(str(tmp_path), kv="streaming:positions=cache")
    with pytest.raises(MismatchError, match="its positions are learned"):
        Pipeline(str(tmp_path), drafter="self:kv=[streaming:positions=cache]")
