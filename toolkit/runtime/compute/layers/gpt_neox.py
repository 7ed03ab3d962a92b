"""GPT-NeoX (Black et al. 2022), and so Pythia: attention and MLP side by side, partial rotary."""

from __future__ import annotations

from typing import Any

from toolkit.runtime.compute.layers.decoder import (
    MLP,
    Attention,
    Decoder,
    Layer,
    TokenEmbedding,
    layer_norm,
    rotary_tables,
)
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kv.attention_config import AttentionConfig

MODEL_TYPES = ("gpt_neox",)


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded GPT-NeoX."""
    model, config = module.gpt_neox, module.config
    heads = config.num_attention_heads
    layers = tuple(
        Layer(
            attention=Attention(
                layer=index,
                qkv=linears.fuse(layer.attention.query_key_value),
                out=linears.fuse(layer.attention.dense),
                heads=heads,
                kv_heads=heads,
                width=config.hidden_size // heads,
                config=AttentionConfig(layer.attention.scaling, window=windows[index]),
                interleaved=True,
                rotary="",
            ),
            mlp=MLP(
                linears.fuse(layer.mlp.dense_h_to_4h),
                config.hidden_act,
                linears.fuse(layer.mlp.dense_4h_to_h),
            ),
            before_attention=layer_norm(layer.input_layernorm),
            before_mlp=layer_norm(layer.post_attention_layernorm),
            parallel=layer.use_parallel_residual,
        )
        for index, layer in enumerate(model.layers)
    )
    return Decoder(
        embed=TokenEmbedding.of(model.embed_in),
        layers=layers,
        norm=layer_norm(model.final_layer_norm),
        head=linears.fuse(module.get_output_embeddings()),
        rotary=rotary_tables(module, model.rotary_emb),
    )
