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


@define(eq=False)
class Pass:
    """What one forward's rows may see: `visible[N, L+S]` bool, before a layer's own window."""

    visible: Tensor
    query_pos: Tensor  # [N]
    key_pos: Tensor  # [L+S]
    calls: int = 0  # layers that came by: a model that never asks has ignored us
    _windows: dict[int, Tensor] = field(factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """`visible` cut to a sliding window of `window` positions, the row's own included."""
        if window is None:
            return self.visible
        if window not in self._windows:
            near = self.query_pos[:, None] - self.key_pos[None, :] < window
            self._windows[window] = self.visible & near
        return self._windows[window]


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
    The policy rules over prefix and path alike, by position.
    """
    prefix = ancestors.new_ones(query_pos.shape[0], key_pos.shape[0] - ancestors.shape[1])
    reachable = torch.cat([prefix, ancestors], 1)
    return Pass(
        reachable & policy.visible(query_pos[:, None], key_pos[None, :]), query_pos, key_pos
    )


def tree_attention(
    module: torch.nn.Module,  # noqa: ARG001 the interface passes it
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 ours comes with the pass
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of query [1, H, N, D] over key and value [1, H_kv, L+S, D] → [1, N, H, D]."""
    now = _current.get(None)
    if now is None:
        raise ModelError(
            "this model was prepared for tree decoding: call it through a toolkit pipeline, or load "
            "it anew for other uses"
        )
    now.calls += 1
    mask = now.mask(sliding_window)
    if softcap is None and s_aux is None:
        grouped = query.shape[1] != key.shape[1]
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped
        )
    else:
        out = _explicit(query, key, value, mask, scaling, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


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
