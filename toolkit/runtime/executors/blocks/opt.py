"""OPT (Zhang et al. 2022): learned positions that count from two, scaled queries.

Sizes differ: the 350m one norms after attention and MLP, and embeds narrower than it computes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from toolkit.runtime.executors.blocks.parts import (
    MLP,
    Attention,
    Block,
    Decoder,
    Map,
    PostNormBlock,
    layer_norm,
)
from toolkit.runtime.executors.linears import Linears
from toolkit.view import Attend


def block_of(
    index: int, layer: Any, config: Any, window: int | None, linears: Linears
) -> Block | PostNormBlock:
    """One decoder layer."""
    attention = layer.self_attn
    attends = Attention(
        layer=index,
        qkv=linears.fused(attention.q_proj, attention.k_proj, attention.v_proj),
        out=linears.fused(attention.out_proj),
        heads=attention.num_heads,
        kv_heads=attention.num_heads,
        width=attention.head_dim,
        how=Attend(attention.scaling, window=window),
    )
    mlp = MLP(linears.fused(layer.fc1), config.activation_function, linears.fused(layer.fc2))
    norms = layer_norm(layer.self_attn_layer_norm), layer_norm(layer.final_layer_norm)
    before = layer.do_layer_norm_before
    return Block(attends, mlp, *norms) if before else PostNormBlock(attends, mlp, *norms)


def last_norm(model: Any) -> Map:
    """The norm before the head, and the way back to the embedding's width where there is one."""
    if model.final_layer_norm is not None and model.project_out is None:
        return layer_norm(model.final_layer_norm)

    def norm(x: Tensor) -> Tensor:
        x = x if model.final_layer_norm is None else model.final_layer_norm(x)
        return x if model.project_out is None else model.project_out(x)

    return norm


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded OPT."""
    model, config = module.model.decoder, module.config

    def embed(tokens: Tensor, positions: Tensor) -> Tensor:
        x = model.embed_tokens(tokens)
        x = x if model.project_in is None else model.project_in(x)
        return x + model.embed_positions(tokens, position_ids=positions)

    return Decoder(
        embed=embed,
        blocks=tuple(
            block_of(index, layer, config, windows[index], linears)
            for index, layer in enumerate(model.layers)
        ),
        norm=last_norm(model),
        head=linears.fused(module.lm_head),
    )
