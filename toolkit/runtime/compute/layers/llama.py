"""Llama (Touvron et al. 2023), Mistral, Qwen2 and Qwen3: rotary, RMS norms, a gated MLP.

Qwen2 adds biases to queries, keys and values, Qwen3 norms on every query and key head; Mistral and
Qwen may have sliding windows.
"""

from __future__ import annotations

from typing import Any

from toolkit.runtime.compute.layers.decoder import (
    Attention,
    Decoder,
    Layer,
    TokenEmbedding,
    gated_mlp,
    rms_norm,
    rotary_tables,
)
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kv.attention_config import AttentionConfig

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def attention_of(
    attention: Any,
    linears: Linears,
    norm: Any,
    window: int | None,
    rotary: str = "",
    softcap: float | None = None,
) -> Attention:
    """The attention of Llama and of the models built like it."""
    config, has_norms = attention.config, hasattr(attention, "q_norm")
    return Attention(
        layer=attention.layer_idx,
        qkv=linears.fuse(attention.q_proj, attention.k_proj, attention.v_proj),
        out=linears.fuse(attention.o_proj),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        width=attention.head_dim,
        config=AttentionConfig(attention.scaling, softcap, window=window),
        norms=(norm(attention.q_norm), norm(attention.k_norm)) if has_norms else None,
        rotary=rotary,
    )


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded Llama, Mistral, Qwen2 or Qwen3."""
    model, config = module.model, module.config
    layers = tuple(
        Layer(
            attention=attention_of(layer.self_attn, linears, rms_norm, window),
            mlp=gated_mlp(layer.mlp, config.hidden_act, linears),
            before_attention=rms_norm(layer.input_layernorm),
            before_mlp=rms_norm(layer.post_attention_layernorm),
        )
        for layer, window in zip(model.layers, windows, strict=True)
    )
    return Decoder(
        embed=TokenEmbedding.of(model.embed_tokens),
        layers=layers,
        norm=rms_norm(model.norm),
        head=linears.fuse(module.lm_head),
        rotary=rotary_tables(module, model.rotary_emb),
    )
