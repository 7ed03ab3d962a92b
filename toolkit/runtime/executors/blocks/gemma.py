"""Gemma 1, 2 and 3 (Gemma Team 2024, 2025): scaled embeddings, RMS norms that count from one.

Gemma 2 and 3 norm what attention and MLP return, too; Gemma 2 caps logits; Gemma 3 norms query and
key heads and rotates sliding layers by other frequencies.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import Tensor

from toolkit.runtime.executors.blocks.llama import LlamaAttention, LlamaBlock, attention_of
from toolkit.runtime.executors.blocks.parts import (
    Description,
    GatedMLP,
    Map,
    RMSNorm,
    Rows,
    gated_mlp,
    rotations_of,
)
from toolkit.runtime.executors.blocks.parts import rms_norm_from_one as norm
from toolkit.runtime.executors.linears import Linears


@frozen(eq=False)
class SandwichBlock:
    """The sum x + norm(attention(norm(x))), then + norm(mlp(norm(x)))."""

    before_attention: RMSNorm
    attention: LlamaAttention
    after_attention: RMSNorm
    before_mlp: RMSNorm
    mlp: GatedMLP
    after_mlp: RMSNorm

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        x = x + self.after_attention(self.attention(self.before_attention(x), rows))
        return x + self.after_mlp(self.mlp(self.before_mlp(x)))


def capped(head: Map, cap: float | None) -> Map:
    """A head whose logits stay within ±cap."""
    return head if cap is None else lambda x: (head(x) / cap).tanh() * cap


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Description:
    """A loaded Gemma."""
    model, config = module.model, module.config
    kinds = config.layer_types if config.model_type == "gemma3_text" else []
    act = getattr(config, "hidden_activation", None) or config.hidden_act

    def block(index: int) -> LlamaBlock | SandwichBlock:
        layer, kind = model.layers[index], kinds[index] if kinds else ""
        attention = attention_of(layer.self_attn, linears, norm, windows[index], kind)
        mlp = gated_mlp(layer.mlp, act, linears)
        before, after = norm(layer.input_layernorm), norm(layer.post_attention_layernorm)
        if not hasattr(layer, "pre_feedforward_layernorm"):
            return LlamaBlock(before, attention, after, mlp)
        return SandwichBlock(
            before,
            attention,
            after,
            norm(layer.pre_feedforward_layernorm),
            mlp,
            norm(layer.post_feedforward_layernorm),
        )

    return Description(
        embed=lambda tokens, _: model.embed_tokens(tokens),
        blocks=tuple(map(block, range(len(model.layers)))),
        norm=norm(model.norm),
        head=capped(
            linears.fused(module.lm_head), getattr(config, "final_logit_softcapping", None)
        ),
        rotations=rotations_of(module, model.rotary_emb, kinds),
    )
