"""GPT-NeoX (Black et al. 2022), and so Pythia: attention and MLP side by side, partial rotary."""

from __future__ import annotations

from typing import Any

from toolkit.runtime.compute.executors.linears import Linears
from toolkit.runtime.compute.layers.layer import (
    MLP,
    Attention,
    Block,
    Decoder,
    layer_norm,
    lookup,
    rotations_of,
)
from toolkit.runtime.kv.attention_config import AttentionConfig


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded GPT-NeoX."""
    model, config = module.gpt_neox, module.config
    heads = config.num_attention_heads
    blocks = tuple(
        Block(
            attention=Attention(
                layer=index,
                qkv=linears.fused(layer.attention.query_key_value),
                out=linears.fused(layer.attention.dense),
                heads=heads,
                kv_heads=heads,
                width=config.hidden_size // heads,
                config=AttentionConfig(layer.attention.scaling, window=windows[index]),
                interleaved=True,
                rotation="",
            ),
            mlp=MLP(
                linears.fused(layer.mlp.dense_h_to_4h),
                config.hidden_act,
                linears.fused(layer.mlp.dense_4h_to_h),
            ),
            before_attention=layer_norm(layer.input_layernorm),
            before_mlp=layer_norm(layer.post_attention_layernorm),
            parallel=layer.use_parallel_residual,
        )
        for index, layer in enumerate(model.layers)
    )
    return Decoder(
        embed=lookup(model.embed_in),
        blocks=blocks,
        norm=layer_norm(model.final_layer_norm),
        head=linears.fused(module.get_output_embeddings()),
        rotations=rotations_of(module, model.rotary_emb),
    )
