"""Moving rotary keys and queries by a number of positions (RoPE, Su et al. 2021).

Two rotations add up, so a key at p becomes the key at p + Δ by a rotation of Δ: no original is
needed. Any scaling of the rotary embedding is in the stored key already and stays.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from transformers import PretrainedConfig

# Architectures whose rotated half pairs dimension i with i + r/2; others pair neighbours, or rotate
# what they do not cache.
HALVES = frozenset(
    "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text gpt_neox phi phi3 olmo olmo2 granite "
    "starcoder2 stablelm qwen2_moe qwen3_moe mixtral".split()
)


def has_rotary(config: PretrainedConfig) -> bool:
    """Whether positions enter by rotation of queries and keys."""
    return bool(getattr(config, "rope_parameters", None))


def rotation_known(config: PretrainedConfig) -> bool:
    """Whether keys can be moved here: without rotary there is nothing to move."""
    return not has_rotary(config) or config.model_type in HALVES


@frozen(eq=False)
class Rotary:
    """Each layer's angular frequencies [r/2], radians per position; empty without rotary."""

    frequencies: tuple[Tensor, ...]

    @classmethod
    def of(cls, module: nn.Module, config: PretrainedConfig) -> Rotary:
        """The rotation of a loaded model; nothing to rotate where it is not of a known kind."""
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
    """One layer's, where layers of several kinds may rotate differently."""
    own = getattr(holder, f"{kind}_inv_freq", None)
    frequencies: Tensor = holder.inv_freq if own is None else own
    return frequencies
