"""GPT-NeoX (Black et al. 2022), and so Pythia: attention and MLP side by side, partial rotary."""

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
    rotated,
    rotations_of,
)
from toolkit.runtime.executors.linears import Linear, Linears
from toolkit.view import Attend


@frozen(eq=False)
class NeoXBlock:
    """The sum x + attention(norm(x)) + mlp(norm(x)); not `parallel`, the MLP comes second."""

    layer: int
    before_attention: Map
    qkv: Linear
    heads: int
    out: Linear
    how: Attend
    before_mlp: Map
    mlp: MLP
    parallel: bool

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        qkv = self.qkv(self.before_attention(x)).view(len(x), self.heads, -1)
        query, key, value = qkv.chunk(3, -1)
        rotation = rows.rotations[""]
        query, key = rotated(query, rotation), rotated(key, rotation)
        attention = self.out(rows.attend(self.layer, query, key, value, self.how))
        if self.parallel:
            return self.mlp(self.before_mlp(x)) + attention + x
        x = attention + x
        return self.mlp(self.before_mlp(x)) + x


def describe(module: Any, windows: tuple[int | None, ...], linears: Linears) -> Description:
    """A loaded GPT-NeoX."""
    model, config = module.gpt_neox, module.config
    blocks = tuple(
        NeoXBlock(
            layer=index,
            before_attention=layer_norm(layer.input_layernorm),
            qkv=linears.fused(layer.attention.query_key_value),
            heads=config.num_attention_heads,
            out=linears.fused(layer.attention.dense),
            how=Attend(layer.attention.scaling, window=windows[index]),
            before_mlp=layer_norm(layer.post_attention_layernorm),
            mlp=MLP(
                linears.fused(layer.mlp.dense_h_to_4h),
                Activation(config.hidden_act),
                linears.fused(layer.mlp.dense_4h_to_h),
            ),
            parallel=layer.use_parallel_residual,
        )
        for index, layer in enumerate(model.layers)
    )
    return Description(
        embed=lambda tokens, _: model.embed_in(tokens),
        blocks=blocks,
        norm=layer_norm(model.final_layer_norm),
        head=linears.fused(module.get_output_embeddings()),
        rotations=rotations_of(module, model.rotary_emb),
    )
