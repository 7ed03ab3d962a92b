"""The one attention function, for AR and tree passes alike.

It is registered with transformers' attention interface. What a row may see reaches it through a
`ContextVar` bound around the forward, never through keyword arguments, which some models drop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from attrs import define, field
from torch import Tensor
from transformers import AttentionInterface

from toolkit.errors import ModelError
from toolkit.runtime.kernels import native
from toolkit.runtime.kv.cache import TreeCache, TreeLayer
from toolkit.runtime.kv.eviction import Evictor
from toolkit.runtime.kv.positions import shown
from toolkit.view import Attend

NAME = "toolkit_tree"
HARMLESS = ("position_ids", "cache_position")  # already in the rotated queries and keys
WIDE = 256  # rows of a pass; more are a prompt's as a rule, which all schedules cut alike
BLOCK = 512  # queries of a whole prompt that attend at a time: its mask is never P × P


@define(eq=False)
class Pass:
    """One forward of N rows over the committed rows and S scratch rows, its own the last of them.

    `lineage[N, S]` bool: the scratch rows on each row's path, itself included; a prompt that is
    scored has none, its rows are a chain. `deepest` is the greatest of `positions[S]`.
    """

    cache: TreeCache
    positions: Tensor  # [S], of the scratch rows
    lineage: Tensor
    deepest: int
    evictor: Evictor | None = None
    calls: int = 0  # layers that came by: a model that never asks has ignored us
    _masks: dict[tuple[int, int | None], Tensor] = field(factory=dict, init=False)
    _seen: dict[tuple[int, int | None], native.Seen] = field(factory=dict, init=False)

    @property
    def query_pos(self) -> Tensor:
        """Positions [N] of the forward's own rows."""
        return self.positions[len(self.positions) - len(self.lineage) :]

    def mask(self, layer: TreeLayer, window: int | None) -> Tensor:
        """What each row sees of a layer's rows: bool [N, C+S], or [H_kv, N, C+S] where heads differ.

        The policy rules over prefix and path alike, by position; a row always sees itself.
        """
        key = id(layer.slots), window
        if key not in self._masks:
            policy = self.cache.policy
            if policy is not None and policy.chooses():
                policy = None  # it has evicted what it hides
            seen = layer.slots.seen(policy, self.query_pos, self.deepest)
            query, held = self.query_pos[:, None], self.positions[None, :]
            path = self.lineage
            if policy is not None:  # a sibling has the same position, but none is on the path
                path = path & (shown(policy, query, held) | (query == held))
            if window is not None:
                path = path & (query - held < window)
                if layer.slots.window is None:
                    near = query - layer.slots.positions[:, None, :] < window
                    seen = seen & (near[0] if len(near) == 1 else near)
            self._masks[key] = torch.cat([seen, path.expand(*seen.shape[:-1], -1)], -1)
        return self._masks[key]

    def seen(self, layer: TreeLayer, window: int | None) -> native.Seen:
        """The same as `mask`, for kernels: rows that all see, and a mask of the rest."""
        key = id(layer.slots), window
        if key not in self._seen:
            self._seen[key] = self._split(layer, window)
        return self._seen[key]

    def _split(self, layer: TreeLayer, window: int | None) -> native.Seen:
        held = layer.slots.count
        if self._everything(layer, window):
            return native.Seen(held, self.lineage[None].contiguous())
        mask = self.mask(layer, window)
        return native.Seen(0, (mask if mask.ndim == 3 else mask[None]).contiguous())

    def _everything(self, layer: TreeLayer, window: int | None) -> bool:
        """Whether each row sees all that is committed and its whole path: found out without a mask."""
        policy, slots = self.cache.policy, layer.slots
        clear = self.evictor is not None and self.deepest <= self.evictor.clear
        hides = policy is not None and not policy.chooses() and not clear
        dies = slots.ragged or slots.next_death <= self.deepest
        return not (hides or dies or window is not None or slots.window is not None)

    def attended(self, layer: TreeLayer, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Keep what the policy will ask for: a prompt's rows at once, committed queries later."""
        if self.evictor is None:
            return
        if self.cache.prompting:
            self.evictor.prompt(layer, query[0], key, value)
        elif self.keeps(layer):
            layer.drafted.append(query[0])

    def keeps(self, layer: TreeLayer) -> bool:
        """Whether the policy will ask for a layer's queries of this pass."""
        return self.evictor is not None and layer.scores and self.evictor.logging


_current: ContextVar[Pass] = ContextVar("toolkit_tree_pass")


@contextmanager
def bound(now: Pass) -> Iterator[None]:
    """Make `now` the pass that attention layers read."""
    token = _current.set(now)
    try:
        yield
    finally:
        _current.reset(token)


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
    """Attention of query [1, H, N, D] over key and value [1, H_kv, C+S, D] → [1, N, H, D]."""
    now = _current.get(None)
    if now is None:
        raise ModelError(
            "this model was prepared for tree decoding: call it through a toolkit pipeline, or load "
            "it anew for other uses"
        )
    _refuse_what_we_ignore(module, attention_mask, other)
    index = cast("int", module.layer_idx)
    window = now.cache.layers[index].window if sliding_window is None else sliding_window
    how = Attend(scaling or query.shape[-1] ** -0.5, softcap, s_aux, window)
    return attended(now, index, query, key, value, how), None


def attended(
    now: Pass, index: int, query: Tensor, key: Tensor, value: Tensor, how: Attend
) -> Tensor:
    """What layer `index` attends to in this pass: shapes as in `tree_attention`."""
    now.calls += 1
    layer: TreeLayer = now.cache.layers[index]
    layer.attend = how
    if now.cache.prompting:
        out = _causal(query, key, value, how).transpose(1, 2).contiguous()
    elif query.shape[2] <= WIDE and (kernels := native.attends(query, key, value)):
        out = kernels.attention(query, key, value, now.seen(layer, how.window), how)
    else:
        out = _attention(query, key, value, now.mask(layer, how.window), how)
        out = out.transpose(1, 2).contiguous()
    now.attended(layer, query, key, value)
    return out


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
    if not hasattr(module, "layer_idx"):
        raise ModelError("its attention does not know which layer it is")


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, attend: Attend) -> Tensor:
    """Attention [1, H, N, D] under a mask [N, K] or [H_kv, N, K]."""
    groups = query.shape[1] // key.shape[1]
    if attend.softcap is None and attend.s_aux is None:
        if mask.ndim == 3:
            mask = mask.repeat_interleave(groups, 0)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=attend.scaling, enable_gqa=groups > 1
        )
    grouped = query[0].reshape(key.shape[1], groups, *query.shape[2:])
    scores = attend.scores(grouped, key[0, :, None])
    weights = attend.weights(scores, mask if mask.ndim == 2 else mask[:, None])
    return (weights.to(value.dtype) @ value[0, :, None]).reshape(
        1, query.shape[1], -1, value.shape[3]
    )


def _causal(query: Tensor, key: Tensor, value: Tensor, attend: Attend) -> Tensor:
    """A whole prompt over itself, a block of queries at a time."""
    at, blocks = torch.arange(query.shape[2], device=query.device), []
    for block in at.split(BLOCK):
        first, last = int(block[0]), int(block[0]) + len(block)
        mask = at[None, :last] <= block[:, None]
        if attend.window is not None:
            mask &= block[:, None] - at[None, :last] < attend.window
        part = query[:, :, first:last]
        blocks.append(_attention(part, key[:, :, :last], value[:, :, :last], mask, attend))
    return torch.cat(blocks, 2)


AttentionInterface.register(NAME, tree_attention)
