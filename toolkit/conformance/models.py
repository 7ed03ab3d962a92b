"""Tiny random float64 models of every tested family, made without a download.

They have two layers, width 32 and a vocabulary of 97, so that thousands of tests are fast, and
float64, so that rounding is far smaller than any difference that a bug makes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import transformers as hf
from transformers import PreTrainedModel

from toolkit.costs import Costs

VOCABULARY = 97
WINDOW = 8  # of sliding layers, small enough to matter in every test
POSITIONS = 256
DRAFT_MODEL = "noisy"  # name of a case's draft model: the target with noise on its weights
EXACT_MODEL = "exact"  # name of an exact copy of the target

_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": POSITIONS,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_NEOX = {k: v for k, v in _LLAMA.items() if k not in ("num_key_value_heads", "head_dim")}
_LAYERS = ["sliding_attention", "full_attention"]
_GEMMA = {
    **_LLAMA,
    "tie_word_embeddings": False,
    "sliding_window": WINDOW,
    "layer_types": _LAYERS,
    "query_pre_attn_scalar": 8,
}

COSTS = Costs(  # made up: rows are cheap, and a level costs enough that planning stops
    contexts=(16, 64),
    rows=(1, 4, 16, 64),
    target=((1.0, 1.1, 1.5, 4.0), (1.2, 1.3, 1.8, 4.5)),
    widths=(1, 16),
    draft=((0.1, 0.2), (0.1, 0.2)),
)

FAMILIES: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**_LLAMA),
    "mistral": lambda: hf.MistralConfig(**_LLAMA, sliding_window=WINDOW),
    "qwen2": lambda: hf.Qwen2Config(
        **_LLAMA, use_sliding_window=True, sliding_window=WINDOW, layer_types=_LAYERS
    ),
    "qwen3": lambda: hf.Qwen3Config(**_LLAMA),
    "gemma2": lambda: hf.Gemma2Config(
        **_GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=8.0
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(**_GEMMA),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_NEOX),
    "gpt2": lambda: hf.GPT2Config(
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=POSITIONS,
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=0,
    ),
    "opt": lambda: hf.OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        vocab_size=VOCABULARY,
        word_embed_proj_dim=32,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=None,
    ),
    "phi": lambda: hf.PhiConfig(
        **{k: v for k, v in _NEOX.items() if k != "num_key_value_heads"}, num_key_value_heads=4
    ),
}


def fresh(
    family: str, seed: int = 0, stops: tuple[int, ...] = (0,), vocabulary: int = VOCABULARY
) -> PreTrainedModel:
    """Make a random float64 model of a family, in eval mode, with these stop ids.

    The weights have a large variance, so that distributions are peaked and greedy text does not repeat
    itself at once.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = FAMILIES[family]()
        config.vocab_size = vocabulary
        model: PreTrainedModel = hf.AutoModelForCausalLM.from_config(config)
        model = model.double().eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(0.0, 0.35)
    model.generation_config = hf.GenerationConfig(eos_token_id=list(stops), bos_token_id=1)
    return model


tiny = lru_cache(maxsize=64)(fresh)  # all cases share these; the first pipeline prepares them


@lru_cache(maxsize=64)
def noisy(family: str, seed: int = 0, noise: float = 0.02) -> PreTrainedModel:
    """Copy `tiny(family, seed)` and add noise to its weights: a drafter that is sometimes right."""
    model = copy.deepcopy(tiny(family, seed))
    rng = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data += noise * torch.randn(
                parameter.shape, generator=rng, dtype=torch.double
            )
    return model
