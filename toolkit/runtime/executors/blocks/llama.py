"""Llama (Touvron et al. 2023), Mistral, Qwen2 and Qwen3: rotary, RMS norms, a gated MLP.

Qwen2 adds biases to queries, keys and values, Qwen3 norms on every query and key head; Mistral and
Qwen may have sliding windows.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import Tensor

from toolkit.runtime.executors.blocks.parts import (
    Description,
    GatedMLP,
    Map,
    RMSNorm,
    Rows,
    gated_mlp,
    rms_norm,
    rotated,
    rotations_of,
)
from toolkit.runtime.executors.linears import Linear, Linears
from toolkit.view import Attend


@frozen(eq=False)
class LlamaAttention:
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions."""

    layer: int
    qkv: Linear
    heads: int  # H
    width: int  # D
    kv_heads: int
    norms: tuple[Map, Map] | None  # of query and key heads
    out: Linear
    how: Attend
    kind: str = ""  # of rotation

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        qkv = self.qkv(x).view(len(x), -1, self.width)
        both, value = qkv.split([self.heads + self.kv_heads, self.kv_heads], 1)
        if self.norms is None:
            both = rotated(both, rows.rotations[self.kind])
            query, key = both.split([self.heads, self.kv_heads], 1)
        else:
            query, key = both.split([self.heads, self.kv_heads], 1)
            query, key = (
                rotated(norm(part), rows.rotations[self.kind])
                for norm, part in zip(self.norms, (query, key), strict=True)
            )
        return self.out(rows.attend(self.layer, query, key, value, self.how))


@frozen(eq=False)
class LlamaBlock:
    """The sum x + attention(norm(x)), then + mlp(norm(x))."""

    before_attention: RMSNorm
    attention: LlamaAttention
    before_mlp: RMSNorm
    mlp: GatedMLP

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        x = x + self.attention(self.before_attention(x), rows)
        return x + self.mlp(self.before_mlp(x))


def attention_of(
    attention: Any, linears: Linears, norm: Any, window: int | None, kind: str = ""
) -> LlamaAttention:
    """The attention that Llama's heirs share."""
    config = attention.config
    has_norms = hasattr(attention, "q_norm")
    return LlamaAttention(
        layer=attention.layer_idx,
        qkv=linears.fused(attention.q_proj, attention.k_proj, attention.v_proj),
        heads=config.num_attention_heads,
        width=attention.head_dim,
        kv_heads=config.num_key_value_heads,
        norms=(norm(attention.q_norm), norm(attention.k_norm)) if has_norms else None,
        out=linears.fused(attention.o_proj),
        how=Attend(
            attention.scaling, getattr(attention, "attn_logit_softcapping", None), window=window
        ),
        kind=kind,
    )


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Description:
    """A loaded Llama, Mistral, Qwen2 or Qwen3."""
    model, config = module.model, module.config
    blocks = tuple(
        LlamaBlock(
            rms_norm(layer.input_layernorm),
            attention_of(layer.self_attn, linears, rms_norm, window),
            rms_norm(layer.post_attention_layernorm),
            gated_mlp(layer.mlp, config.hidden_act, linears),
        )
        for layer, window in zip(model.layers, windows, strict=True)
    )
    return Description(
        embed=lambda tokens, _: model.embed_tokens(tokens),
        blocks=blocks,
        norm=rms_norm(model.norm),
        head=linears.fused(module.lm_head),
        rotations=rotations_of(module, model.rotary_emb),
    )
