"""Gemma 1, 2 and 3 (Gemma Team 2024, 2025): scaled embeddings, RMS norms that count from one.

Gemma 2 and 3 norm what attention and MLP return, too; Gemma 2 caps logits; Gemma 3 norms query and
key heads and rotates sliding layers by other frequencies.
"""

from __future__ import annotations

from typing import Any

from toolkit.runtime.compute.executors.linears import Linears
from toolkit.runtime.compute.layers.layer import Block, Decoder, gated_mlp, rotations_of
from toolkit.runtime.compute.layers.layer import rms_norm_from_one as norm
from toolkit.runtime.compute.layers.llama import attention_of


def norms_of(layer: Any) -> dict[str, Any]:
    """A layer's norms: two in Gemma 1, four in its heirs, which call the MLP's something else."""
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
    cap = config.attn_logit_softcapping if config.model_type == "gemma2" else None
    act = config.hidden_act if config.model_type == "gemma" else config.hidden_activation
    blocks = tuple(
        Block(
            attention=attention_of(
                layer.self_attn, linears, norm, window, kinds[index] if kinds else "", cap
            ),
            mlp=gated_mlp(layer.mlp, act, linears),
            **norms_of(layer),
        )
        for index, (layer, window) in enumerate(zip(model.layers, windows, strict=True))
    )
    return Decoder(
        embed=lambda tokens, _: model.embed_tokens(tokens),
        blocks=blocks,
        norm=norm(model.norm),
        head=linears.fused(module.lm_head),
        cap=getattr(config, "final_logit_softcapping", None),
        rotations=rotations_of(module, model.rotary_emb, kinds),
    )
