"""OPT (Zhang et al. 2022): learned positions that count from two, scaled queries.

OPT-350m has its norms after attention and MLP, and an embedding that is narrower than its layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from toolkit.runtime.compute.layers.decoder import (
    MLP,
    Attention,
    Decoder,
    Layer,
    Map,
    PostNormLayer,
    layer_norm,
)
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kv.attention_config import AttentionConfig

MODEL_TYPES = ("opt",)


def layer_of(
    index: int, layer: Any, config: Any, window: int | None, linears: Linears
) -> Layer | PostNormLayer:
    """One decoder layer."""
    attention = layer.self_attn
    heads = Attention(
        layer=index,
        qkv=linears.fuse(attention.q_proj, attention.k_proj, attention.v_proj),
        out=linears.fuse(attention.out_proj),
        heads=attention.num_heads,
        kv_heads=attention.num_heads,
        width=attention.head_dim,
        config=AttentionConfig(attention.scaling, window=window),
    )
    mlp = MLP(linears.fuse(layer.fc1), config.activation_function, linears.fuse(layer.fc2))
    norms = layer_norm(layer.self_attn_layer_norm), layer_norm(layer.final_layer_norm)
    before = layer.do_layer_norm_before
    return Layer(heads, mlp, *norms) if before else PostNormLayer(heads, mlp, *norms)


def last_norm(model: Any, linears: Linears) -> Map:
    """The norm before the head, and the projection to the embedding's width where there is one."""
    norm = None if model.final_layer_norm is None else layer_norm(model.final_layer_norm)
    if model.project_out is None:
        return norm or (lambda x: x)
    out = linears.fuse(model.project_out)
    return lambda x: out(x if norm is None else norm(x))


def embedding(model: Any, linears: Linears) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of tokens and positions, which projects to the layers' width where that differs."""
    project = None if model.project_in is None else linears.fuse(model.project_in)

    def embed(tokens: Tensor, positions: Tensor) -> Tensor:
        x = model.embed_tokens(tokens)
        x = x if project is None else project(x)
        return x + model.embed_positions(tokens, position_ids=positions)

    return embed


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded OPT."""
    model, config = module.model.decoder, module.config
    return Decoder(
        embed=embedding(model, linears),
        layers=tuple(
            layer_of(index, layer, config, windows[index], linears)
            for index, layer in enumerate(model.layers)
        ),
        norm=last_norm(model, linears),
        head=linears.fuse(module.lm_head),
    )
