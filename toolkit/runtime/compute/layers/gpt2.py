"""GPT-2 (Radford et al. 2019): learned positions, layer norms before attention and MLP."""

from __future__ import annotations

from typing import Any

from toolkit.runtime.compute.layers.decoder import MLP, Attention, Decoder, Layer, layer_norm
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kv.attention_config import AttentionConfig

MODEL_TYPES = ("gpt2",)


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded GPT-2."""
    model, config = module.transformer, module.config
    heads = config.num_attention_heads
    layers = tuple(
        Layer(
            attention=Attention(
                layer=index,
                qkv=linears.fuse(layer.attn.c_attn),
                out=linears.fuse(layer.attn.c_proj),
                heads=heads,
                kv_heads=heads,
                width=config.hidden_size // heads,
                config=AttentionConfig(layer.attn.scaling, window=windows[index]),
            ),
            mlp=MLP(
                linears.fuse(layer.mlp.c_fc),
                config.activation_function,
                linears.fuse(layer.mlp.c_proj),
            ),
            before_attention=layer_norm(layer.ln_1),
            before_mlp=layer_norm(layer.ln_2),
        )
        for index, layer in enumerate(model.h)
    )
    return Decoder(
        embed=lambda tokens, positions: model.wte(tokens) + model.wpe(positions),
        layers=layers,
        norm=layer_norm(model.ln_f),
        head=linears.fuse(module.lm_head),
    )
