"""The one attention function, for AR and tree passes alike.

It is registered with transformers' attention interface. What a row may see reaches it through a
`ContextVar` bound around the forward, never through keyword arguments, which some models drop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from attrs import define, field
from torch import Tensor
from transformers import AttentionInterface

from toolkit.errors import ModelError
from toolkit.interfaces import KVPolicy

NAME = "toolkit_tree"
HARMLESS = ("position_ids", "cache_position")  # already in the rotated queries and keys


@define(eq=False)
class Pass:
    """What one forward's rows may see: `visible[N, L+S]` bool, before a layer's own window."""

    visible: Tensor
    query_pos: Tensor  # [N]
    key_pos: Tensor  # [L+S]
    windows: tuple[int | None, ...] = ()  # of each layer, where its config knows one
    calls: int = 0  # layers that came by: a model that never asks has ignored us
    _masks: dict[int, Tensor] = field(factory=dict, init=False)

    def window(self, layer: int | None, given: int | None) -> int | None:
        """A layer's sliding window: the one that it gives, else the one that its config knows."""
        if given is not None or layer is None or layer >= len(self.windows):
            return given
        return self.windows[layer]

    def mask(self, window: int | None) -> Tensor:
        """`visible` cut to a sliding window of `window` positions, the row's own included."""
        if window is None:
            return self.visible
        if window not in self._masks:
            near = self.query_pos[:, None] - self.key_pos[None, :] < window
            self._masks[window] = self.visible & near
        return self._masks[window]


_current: ContextVar[Pass] = ContextVar("toolkit_tree_pass")


@contextmanager
def bound(now: Pass) -> Iterator[None]:
    """Make `now` the pass that attention layers read."""
    token = _current.set(now)
    try:
        yield
    finally:
        _current.reset(token)


def visibility(policy: KVPolicy, query_pos: Tensor, key_pos: Tensor, ancestors: Tensor) -> Pass:
    """The pass of N rows at `query_pos[N]` over L committed rows, then S scratch rows.

    `key_pos[L+S]`; `ancestors[N, S]` bool: the scratch rows on each row's path, itself included.
    The policy rules over prefix and path alike, by position; a row always sees itself.
    """
    prefix = ancestors.new_ones(query_pos.shape[0], key_pos.shape[0] - ancestors.shape[1])
    reachable = torch.cat([prefix, ancestors], 1)
    query, key = query_pos[:, None], key_pos[None, :]
    itself = query == key  # a sibling's position too, but no sibling is reachable
    return Pass(reachable & (policy.visible(query, key) | itself), query_pos, key_pos)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attention of query [1, H, N, D] over key and value [1, H_kv, L+S, D] → [1, N, H, D]."""
    now = _current.get(None)
    if now is None:
        raise ModelError(
            "this model was prepared for tree decoding: call it through a toolkit pipeline, or load "
            "it anew for other uses"
        )
    _refuse_what_we_ignore(module, attention_mask, other)
    now.calls += 1
    mask = now.mask(now.window(getattr(module, "layer_idx", None), sliding_window))
    if softcap is None and s_aux is None:
        grouped = query.shape[1] != key.shape[1]
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped
        )
    else:
        out = _explicit(query, key, value, mask, scaling, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


def _refuse_what_we_ignore(
    module: torch.nn.Module, mask: Tensor | None, other: dict[str, Any]
) -> None:
    """Raise `ModelError` for an attention that depends on more than we know of."""
    if mask is not None:
        raise ModelError("it makes an attention mask of its own")
    if other.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise ModelError("it reads both ways")
    unknown = [k for k, v in other.items() if isinstance(v, Tensor) and k not in HARMLESS]
    if unknown:
        raise ModelError(f"its attention also takes {', '.join(unknown)}")


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    s_aux: Tensor | None,
) -> Tensor:
    """Attention with capped scores (Gemma 2) or a learned sink per head (gpt-oss)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if s_aux is not None:
        sinks = s_aux.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)
        scores = torch.cat([scores, sinks], -1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=exact)[..., : key.shape[2]]
    return weights.to(value.dtype) @ value


AttentionInterface.register(NAME, tree_attention)
