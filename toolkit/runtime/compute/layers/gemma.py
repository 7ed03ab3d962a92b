"""Gemma 1, 2 and 3 (Gemma Team 2024, 2025): scaled embeddings, RMS norms that count from one.

Gemma 2 and 3 also have norms after attention and MLP. Gemma 2 caps logits. Gemma 3 has norms on query
and key heads, and its sliding layers have other rotary frequencies.
"""

from __future__ import annotations

from typing import Any

from toolkit.runtime.compute.layers.decoder import Decoder, Layer, gated_mlp, rotary_tables
from toolkit.runtime.compute.layers.decoder import rms_norm_from_one as norm
from toolkit.runtime.compute.layers.llama import attention_of
from toolkit.runtime.compute.linears.linears import Linears

MODEL_TYPES = ("gemma", "gemma2", "gemma3_text")


def norms_of(layer: Any) -> dict[str, Any]:
    """A layer's norms: two in Gemma 1, four in Gemma 2 and 3, which name the MLP's differently."""
    before, second = norm(layer.input_layernorm), norm(layer.post_attention_layernorm)
    if not hasattr(layer, "pre_feedforward_layernorm"):
        return {"before_attention": before, "before_mlp": second}
    return {
        "before_attention": before,
        "after_attention": second,
        "before_mlp": norm(layer.pre_feedforward_layernorm),
        "after_mlp": norm(layer.post_feedforward_layernorm),
    }


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded Gemma."""
    model, config = module.model, module.config
    kinds = config.layer_types if config.model_type == "gemma3_text" else []
    softcap = config.attn_logit_softcapping if config.model_type == "gemma2" else None
    act = config.hidden_act if config.model_type == "gemma" else config.hidden_activation
    layers = tuple(
        Layer(
            attention=attention_of(
                layer.self_attn, linears, norm, window, kinds[index] if kinds else "", softcap
            ),
            mlp=gated_mlp(layer.mlp, act, linears),
            **norms_of(layer),
        )
        for index, (layer, window) in enumerate(zip(model.layers, windows, strict=True))
    )
    return Decoder(
        embed=lambda tokens, _: model.embed_tokens(tokens),
        layers=layers,
        norm=norm(model.norm),
        head=linears.fuse(module.lm_head),
        softcap=getattr(config, "final_logit_softcapping", None),
        rotary=rotary_tables(module, model.rotary_emb, kinds),
    )
