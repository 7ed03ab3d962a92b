"""Move rotary keys and queries by a number of positions (RoPE, Su et al. 2021).

Rotations add up: a key rotated for position p, rotated again by Δ, is the key for position p + Δ. A
scaling of the rotary embedding is part of the stored key and stays.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from transformers import PretrainedConfig

# Architectures that rotate dimension i together with i + r/2. Others pair neighbours, or rotate states
# that they do not cache.
HALVES = frozenset(
    "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text gpt_neox phi phi3 olmo olmo2 granite "
    "starcoder2 stablelm qwen2_moe qwen3_moe mixtral".split()
)


def has_rotary(config: PretrainedConfig) -> bool:
    """Whether the model encodes positions by rotating queries and keys."""
    return bool(getattr(config, "rope_parameters", None))


def rotation_known(config: PretrainedConfig) -> bool:
    """Whether keys can be moved here; without rotary there is nothing to move."""
    return not has_rotary(config) or config.model_type in HALVES


@frozen(eq=False)
class Rotary:
    """Each layer's angular frequencies [r/2], radians per position; empty without rotary."""

    frequencies: tuple[Tensor, ...]

    @classmethod
    def of(cls, module: nn.Module, config: PretrainedConfig) -> Rotary:
        """The frequencies of a loaded model; all empty if its way of rotating is not known here."""
        layers = config.num_hidden_layers
        if not has_rotary(config) or not rotation_known(config):
            return cls((torch.zeros(0),) * layers)
        holder: Any = next(m for m in module.modules() if hasattr(m, "rotary_emb")).rotary_emb
        kinds = getattr(config, "layer_types", None) or [""] * layers
        return cls(tuple(_frequencies(holder, kind) for kind in kinds))

    def rotate(self, layer: int, states: Tensor, by: Tensor) -> Tensor:
        """`states[…, D]` moved by `by[…]` positions, computed in float32 at least."""
        frequencies = self.frequencies[layer]
        half = frequencies.shape[0]
        if not half:
            return states
        exact = torch.promote_types(states.dtype, torch.float32)
        angle = by[..., None].to(exact) * frequencies.to(states.device, exact)
        cos, sin = angle.cos(), angle.sin()
        x, y = states[..., :half].to(exact), states[..., half : 2 * half].to(exact)
        moved = torch.cat([x * cos - y * sin, y * cos + x * sin], -1).to(states.dtype)
        return torch.cat([moved, states[..., 2 * half :]], -1)


def _frequencies(holder: Any, kind: str) -> Tensor:
    """The frequencies of one layer; kinds of layers may have different ones."""
    own = getattr(holder, f"{kind}_inv_freq", None)
    frequencies: Tensor = holder.inv_freq if own is None else own
    return frequencies
