"""OPT (Zhang et al. 2022): learned positions that count from two, scaled queries.

Sizes differ: the 350m one norms after attention and MLP, and embeds narrower than it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from toolkit.runtime.compute.executors.linears import Linears
from toolkit.runtime.compute.layers.layer import (
    MLP,
    Attention,
    Block,
    Decoder,
    Map,
    PostNormBlock,
    layer_norm,
)
from toolkit.runtime.kv.attention_config import AttentionConfig


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
        config=AttentionConfig(attention.scaling, window=window),
    )
    mlp = MLP(linears.fused(layer.fc1), config.activation_function, linears.fused(layer.fc2))
    norms = layer_norm(layer.self_attn_layer_norm), layer_norm(layer.final_layer_norm)
    before = layer.do_layer_norm_before
    return Block(attends, mlp, *norms) if before else PostNormBlock(attends, mlp, *norms)


def last_norm(model: Any, linears: Linears) -> Map:
    """The norm before the head, and the way back to the embedding's width where there is one."""
    norm = None if model.final_layer_norm is None else layer_norm(model.final_layer_norm)
    if model.project_out is None:
        return norm or (lambda x: x)
    out = linears.fused(model.project_out)
    return lambda x: out(x if norm is None else norm(x))


def embedding(model: Any, linears: Linears) -> Callable[[Tensor, Tensor], Tensor]:
    """Of tokens and positions, widened where the model computes wider than it embeds."""
    widen = None if model.project_in is None else linears.fused(model.project_in)

    def embed(tokens: Tensor, positions: Tensor) -> Tensor:
        x = model.embed_tokens(tokens)
        x = x if widen is None else widen(x)
        return x + model.embed_positions(tokens, position_ids=positions)

    return embed


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Decoder:
    """A loaded OPT."""
    model, config = module.model.decoder, module.config
    return Decoder(
        embed=embedding(model, linears),
        blocks=tuple(
            block_of(index, layer, config, windows[index], linears)
            for index, layer in enumerate(model.layers)
        ),
        norm=last_norm(model, linears),
        head=linears.fused(module.lm_head),
    )
