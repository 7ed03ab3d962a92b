"""OPT (Zhang et al. 2022): learned positions that count from two, scaled queries.

Sizes differ: the 350m one norms after attention and MLP, and embeds narrower than it computes.
"""

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
class OPTBlock:
    """The sum x + attention(norm(x)), then + mlp(norm(x)); with `after` the sums are normed instead."""

    layer: int
    qkv: Linear
    heads: int
    scaling: float
    out: Linear
    how: Attend
    norms: tuple[Map, Map]
    mlp: MLP
    after: bool

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        first, second = self.norms
        if self.after:
            x = first(x + self._attention(x, rows))
            return second(x + self.mlp(x))
        x = x + self._attention(first(x), rows)
        return x + self.mlp(second(x))

    def _attention(self, x: Tensor, rows: Rows) -> Tensor:
        query, key, value = self.qkv(x).view(len(x), 3 * self.heads, -1).chunk(3, 1)
        query = query * self.scaling
        return self.out(rows.attend(self.layer, query, key, value, self.how))


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Description:
    """A loaded OPT."""
    model, config = module.model.decoder, module.config

    def embed(tokens: Tensor, positions: Tensor) -> Tensor:
        x = model.embed_tokens(tokens)
        x = x if model.project_in is None else model.project_in(x)
        return x + model.embed_positions(tokens, position_ids=positions)

    def norm(x: Tensor) -> Tensor:
        x = x if model.final_layer_norm is None else model.final_layer_norm(x)
        return x if model.project_out is None else model.project_out(x)

    def block(index: int) -> OPTBlock:
        layer = model.layers[index]
        attention = layer.self_attn
        return OPTBlock(
            layer=index,
            qkv=linears.fused(attention.q_proj, attention.k_proj, attention.v_proj),
            heads=attention.num_heads,
            scaling=attention.scaling,
            out=linears.fused(attention.out_proj),
            how=Attend(1.0, window=windows[index]),
            norms=(layer_norm(layer.self_attn_layer_norm), layer_norm(layer.final_layer_norm)),
            mlp=MLP(
                linears.fused(layer.fc1),
                Activation(config.activation_function),
                linears.fused(layer.fc2),
            ),
            after=not layer.do_layer_norm_before,
        )

    return Description(
        embed=embed,
        blocks=tuple(map(block, range(len(model.layers)))),
        norm=norm,
        head=linears.fused(module.lm_head),
    )
