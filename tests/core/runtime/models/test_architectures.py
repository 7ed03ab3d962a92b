"""Every decoder-only type of transformers is supported, or refused with a reason for a person.

With TOOLKIT_PROFILE=nightly all supported types are tried, and give the tokens of `generate`; otherwise
every fifth is tried.
"""

import copy
import os
import re

import pytest
import torch
import transformers as hf
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from toolkit import Pipeline
from toolkit.errors import ModelError
from toolkit.runtime.compute.executors.build_on_meta import build_on_meta
from toolkit.runtime.models.supported import require_supported

SMALL = {  # what configs call their sizes
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 128),
    **dict.fromkeys(("head_dim", "global_head_dim", "query_pre_attn_scalar"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 199),
    **dict.fromkeys(("n_positions", "n_ctx", "max_position_embeddings", "max_seq_len"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "n_group", "topk_group"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    "dense_intermediate_size": 128, "hidden_size_per_layer_input": 16, "rotary_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "first_k_dense_replace": 1,
    "shared_intermediate_size": 64, "max_window_layers": 1, "num_kv_shared_layers": 0,
    "sliding_window": 16,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4}
MEANT = {"num_key_value_heads", "q_lora_rank", "sliding_window"}  # None means something
OWN = {  # what single types need
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [32, 32]},
}
RECURRENT = "it keeps a recurrent state, which cannot forget a rejected token"
STATE = "some of its layers keep a state other than keys and values"
POSITIONS = "it takes no position_ids, so a node's position cannot be its depth"
ENCODER = "it is built as an encoder, which reads both ways or counts positions its own way"
ATTENTION = "its attention cannot be replaced"
INDEXER = "its indexer chooses the keys that each token attends to (sparse attention)"
CHUNKS = "it attends in chunks"
NONE = "transformers has no decoder-only language model of this type"
REASONS = {
    "bailing_hybrid bamba deepseek_v4 falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear mamba "
    "mamba2 nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next "
    "qwen4_exp qwen4_exp_text recurrent_gemma rwkv xlstm zamba zamba2 zaya": RECURRENT,
    "inkling_text inkling2_text lfm2_moe lfm3 minimax": STATE,
    "bart bigbird_pegasus blenderbot blenderbot-small bloom cpmant marian mbart mpt mvp pegasus plbart "
    "prophetnet trocr whisper xlnet": POSITIONS,
    "bert big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod": ENCODER,
    "codegen falcon git gpt_neo gpt_neox_japanese gptj openai-gpt reformer xglm xlm": ATTENTION,
    "axk2 deepseek_v32 dots3_note dots3_note_text glm_moe_dsa hy_v4": INDEXER,
    "llama4 llama4_text": CHUNKS,
    "emu3 mllama musicgen musicgen_melody": NONE,
    "bert-generation": "it reads both ways",
    "blt": "it is not one stack of decoder layers: its config has no num_hidden_layers",
    "dbrx": "transformers cannot build it from this config",
    "doge": "it makes an attention mask of its own",
    "gemma4_assistant gemma4_unified_assistant": "it drafts from another model's keys and values",
    "moshi": "it attends to a whole prompt, but later to a sliding window alone",
}
REASON = {name: reason for names, reason in REASONS.items() for name in names.split()}
TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
SUPPORTED = [name for name in TYPES if name not in REASON]
MOST = 50_000_000  # parameters of a model with weights
NIGHTLY = os.environ.get("TOOLKIT_PROFILE") == "nightly"


def small(model_type):
    """A small config of a type, of its language model's if it has other parts."""
    if model_type == "gemma4_assistant":  # its default config is refused by itself
        return hf.Gemma4AssistantConfig(
            text_config={
                "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0,
                "num_hidden_layers": 2, "num_kv_shared_layers": 2,
            }
        )
    whole = hf.AutoConfig.for_model(model_type)
    if model_type.endswith("_assistant"):
        return whole
    config = whole.get_text_config(decoder=True)
    try:
        return type(config)(**{**sizes(config), **OWN.get(model_type, {})})
    except Exception:  # noqa: BLE001 some types refuse to be small
        return config


def sizes(config):
    """The options of a config that are sizes, and small values for them."""
    given = {}
    for name, value in SMALL.items():
        own = value_of(config, name)
        absent = own == "absent" or isinstance(own, (list, tuple))
        if not absent and (own is not None or name not in MEANT):
            given.setdefault(config.attribute_map.get(name, name), value)
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or []))
    if kinds:
        given["layer_types"] = kinds if len(kinds) > 1 else kinds * 2
        given["num_hidden_layers"] = len(given["layer_types"])
    if "kv_lora_rank" in given or "qk_rope_head_dim" in given:
        given["num_key_value_heads"] = 4
        given.pop("head_dim", None)
    return given


def value_of(config, name):
    """An option's value; "absent" where there is none, or one for each layer."""
    try:
        return getattr(config, name, "absent")
    except Exception:  # noqa: BLE001 of a class of transformers' own
        return "absent"


def test_the_table_has_no_type_that_is_gone():
    assert set(REASON) <= set(TYPES)


@pytest.mark.parametrize("model_type", sorted(REASON))
def test_a_type_is_refused_with_its_reason(model_type):
    with pytest.raises(ModelError) as caught:
        require_supported(small(model_type), "mine")
    said = str(caught.value).partition("cannot decode trees: ")[2]
    assert said.startswith(REASON[model_type])
    assert not re.search(r"Error\b|Traceback|NoneType|object|\bself\b", said)


@pytest.mark.parametrize("model_type", SUPPORTED if NIGHTLY else SUPPORTED[::5])
def test_a_type_is_supported(model_type):
    require_supported(small(model_type), "mine")


@pytest.mark.skipif(not NIGHTLY, reason="each type takes a second or two: TOOLKIT_PROFILE=nightly")
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_a_supported_type_gives_the_tokens_of_generate(registry, model_type):
    """With a prompt longer than any sliding window."""
    config = small(model_type)
    parameters = sum(weight.numel() for weight in build_on_meta(config).parameters())
    if parameters > MOST:
        pytest.skip(f"its smallest config here has {parameters:,} parameters")
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim >= 2:
            weight.data.normal_(0.0, 0.1)
    prompt = [5 + i % 40 for i in range(40)]
    wanted = copy.deepcopy(model).generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 40, dtype=torch.long),
        max_new_tokens=32, do_sample=False, eos_token_id=None, pad_token_id=0,
    )[0, 40:].tolist()  # fmt: skip
    pipeline = Pipeline(model, registry=registry, ignore_eos=True)
    assert pipeline.generate(prompt, max_new_tokens=32).token_ids == wanted
