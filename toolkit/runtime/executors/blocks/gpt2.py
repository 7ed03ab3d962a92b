"""GPT-2 (Radford et al. 2019): learned positions, layer norms before attention and MLP."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import Tensor

from toolkit.runtime.executors.blocks.parts import (
    MLP,
    Activation,
    Description,
    Map,
    Rows,
    layer_norm,
)
from toolkit.runtime.executors.linears import Linear, Linears
from toolkit.view import Attend


@frozen(eq=False)
class GPT2Block:
    """The sum x + attention(norm(x)), then + mlp(norm(x))."""

    layer: int
    before_attention: Map
    qkv: Linear
    heads: int
    out: Linear
    how: Attend
    before_mlp: Map
    mlp: MLP

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        qkv = self.qkv(self.before_attention(x)).view(len(x), 3 * self.heads, -1)
        query, key, value = qkv.chunk(3, 1)
        x = x + self.out(rows.attend(self.layer, query, key, value, self.how))
        return x + self.mlp(self.before_mlp(x))


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Description:
    """A loaded GPT-2."""
    model, config = module.transformer, module.config
    blocks = tuple(
        GPT2Block(
            layer=index,
            before_attention=layer_norm(layer.ln_1),
            qkv=linears.fused(layer.attn.c_attn),
            heads=config.num_attention_heads,
            out=linears.fused(layer.attn.c_proj),
            how=Attend(layer.attn.scaling, window=windows[index]),
            before_mlp=layer_norm(layer.ln_2),
            mlp=MLP(
                linears.fused(layer.mlp.c_fc),
                Activation(config.activation_function),
                linears.fused(layer.mlp.c_proj),
            ),
        )
        for index, layer in enumerate(model.h)
    )
    return Description(
        embed=lambda tokens, positions: model.wte(tokens) + model.wpe(positions),
        blocks=blocks,
        norm=layer_norm(model.ln_f),
        head=linears.fused(module.lm_head),
    )
