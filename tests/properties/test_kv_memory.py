"""Memory is bounded by the policy, not by the text."""

import pytest
import torch
import transformers as hf

from toolkit import Pipeline
from toolkit.conformance.models import VOCABULARY

SHAPE = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": VOCABULARY, "eos_token_id": None,
    "max_position_embeddings": 16384,
}
PROMPT = [(7 * i * i) % 90 + 1 for i in range(300)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE)).eval()


def sizes(pipeline, prompt, count):
    """Bytes of the target's KV after each step."""
    stream = pipeline.stream(prompt, max_new_tokens=count)
    found = [stream.target.cache.bytes for _ in stream.decode()]
    assert len(stream.result.token_ids) == count
    return found[1:], stream.result


@pytest.mark.parametrize("spec", ["streaming", "streaming:positions=cache", "window:budget=64"])
def test_four_thousand_tokens_in_constant_bytes(model, spec):
    pipeline = Pipeline(model, drafter="ngram", shaper="chain:k=8", kv=spec)
    held, result = sizes(pipeline, PROMPT, 4000)
    assert len(set(held)) == 1
    assert result.kv_bytes == held[0]
    full = 4300 * 2 * SHAPE["num_hidden_layers"] * 8 * 4  # rows, K and V, layers, head size, fp32
    assert held[0] < full / 8


@pytest.mark.parametrize("spec", ["h2o", "tova", "knorm", "keydiff", "lagkv", "expected", "headaware"])
def test_a_policy_that_scores_is_bounded_too(model, spec):
    held, _ = sizes(Pipeline(model, drafter="ngram", shaper="chain:k=8", kv=spec), PROMPT, 400)
    rows = 128 + 2 * 16 + 64 + 64  # the budget, two epochs, a tree, rounding
    cells = rows * 2 * 2 * 8 * 4 + 2 * (2 * 2 * 16 * 8 * 4 + rows * 4)  # K and V, log, scores
    cells += 2 * 2 * rows * 8  # tables of positions and evictions
    assert max(held) <= cells


LONG = {**SHAPE, "num_hidden_layers": 8}
DEEP = {
    "llama": hf.LlamaConfig(**LONG),
    "gemma3": hf.Gemma3TextConfig(
        **LONG, head_dim=8, sliding_window=32, pad_token_id=None,
        layer_types=["sliding_attention", "full_attention"] * 4,
    ),
}


@pytest.mark.parametrize("family", sorted(DEEP))
@pytest.mark.parametrize("spec", ["h2o:budget=64,recent=8", "knorm:budget=64"])
def test_a_long_prompt_is_never_held_whole_for_all_layers(family, spec):
    torch.manual_seed(0)
    deep = hf.AutoModelForCausalLM.from_config(DEEP[family]).float().eval()
    prompt = [i % 90 + 1 for i in range(4000)]
    _, result = sizes(Pipeline(deep, drafter="none", shaper="chain", kv=spec), prompt, 2)
    one = 4000 * 2 * 8 * 4  # a layer's K and V of the prompt
    assert one < result.kv_peak_bytes < 2 * one
    assert result.kv_bytes < one / 2


def test_a_masked_prompt_is_held_a_chunk_at_a_time(model):
    prompt = [i % 90 + 1 for i in range(6000)]
    pipeline = Pipeline(model, drafter="none", shaper="chain", kv="streaming")
    _, result = sizes(pipeline, prompt, 2)
    assert result.kv_peak_bytes < (128 + 512 + 128) * 2 * 2 * 8 * 4
