"""The one attention function, for AR and tree passes alike.

It is registered with transformers' attention interface. What a row may see reaches it through a
`ContextVar` bound around the forward, never through keyword arguments, which some models drop.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from attrs import define, field, frozen
from torch import Tensor
from transformers import AttentionInterface

from toolkit.errors import ModelError
from toolkit.runtime.kernels import native
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.cache import TreeCache, TreeLayer
from toolkit.runtime.kv.eviction import Eviction
from toolkit.transfer import send
from toolkit.tree import lineage, pad_rows

NAME = "toolkit_tree"
HARMLESS = ("position_ids", "cache_position")  # already in the rotated queries and keys
WIDE = 256  # rows of a pass; more are a prompt's as a rule, which all schedules cut alike
CPU = torch.device("cpu")
BLOCK = 512  # queries of a whole prompt that attend at a time: its mask is never P × P


@frozen(eq=False)
class HostRows:
    """The N rows of a pass as the host knows them. They are the last of S scratch rows."""

    tokens: list[int]  # N
    positions: list[int]  # S, of the scratch rows
    paths: list[bytes]  # N, of S bytes: 1 for each scratch row on a row's path, itself included

    @classmethod
    def chain(cls, tokens: list[int]) -> HostRows:
        """Rows at positions 0 … N−1, each below the one before."""
        paths = lineage([row - 1 for row in range(len(tokens))])
        return cls(tokens, list(range(len(tokens))), pad_rows(paths))

    @property
    def query_pos(self) -> list[int]:
        """The N positions of the pass's own rows."""
        return self.positions[len(self.positions) - len(self.paths) :]

    def tensors(self, device: torch.device) -> Rows:
        """The rows on a device."""
        count = len(self.paths)
        paths = torch.zeros(count, 0, dtype=torch.bool)
        if self.paths[0]:
            paths = torch.frombuffer(bytearray().join(self.paths), dtype=torch.bool).view(count, -1)
        return Rows(*send(device, torch.tensor(self.tokens), torch.tensor(self.positions), paths))

    def part(self, begin: int, count: int) -> HostRows:
        """The `count` rows from `begin` on, or as many as there are."""
        if begin == 0 and len(self.tokens) <= count:
            return self
        tokens = self.tokens[begin : begin + count]
        scratch = len(self.positions) - len(self.tokens) + begin + len(tokens)
        paths = [path[:scratch] for path in self.paths[begin : begin + count]]
        return HostRows(tokens, self.positions[:scratch], paths)


@frozen(eq=False)
class Rows:
    """The N rows of a pass on a device. They are the last of S scratch rows."""

    tokens: Tensor  # [N]
    positions: Tensor  # [S], of the scratch rows
    lineage: Tensor  # bool [N, S]: the scratch rows on each row's path, itself included

    @property
    def query_pos(self) -> Tensor:
        """Positions [N] of the pass's own rows."""
        return self.positions[len(self.positions) - len(self.lineage) :]


@define(eq=False, slots=False)
class Pass:
    """One forward of N rows over the committed rows and S scratch rows, its own the last of them.

    `deepest` is the greatest position of the S rows. A whole prompt that is scored has no scratch rows:
    eviction stores those of its P rows that stay.
    """

    eviction: Eviction
    host: HostRows
    deepest: int
    whole_prompt: bool = False
    device: torch.device = CPU
    cache: TreeCache = field(init=False)
    calls: int = 0  # layers that attended: a model that never asks has ignored our attention
    _masks: dict[tuple[int, int | None], Tensor] = field(factory=dict, init=False)
    _visible: dict[tuple[int, int | None, int], native.Visible] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.cache = self.eviction.cache

    @cached_property
    def rows(self) -> Rows:
        """The rows on the device."""
        return self.host.tensors(self.device)

    def mask(self, layer: TreeLayer, window: int | None) -> Tensor:
        """Which of a layer's rows each row sees: bool [N, C+S], or [H_kv, N, C+S] if heads differ.

        A policy hides rows of prefix and path by position; a row always sees itself.
        """
        key, heads = (id(layer.table), window), layer.heads
        if key not in self._masks:
            own = self.rows
            query, held = own.query_pos[:, None], layer.table.positions
            prefix = layer.table.visible(query, self.deepest)
            mask = torch.cat([prefix, own.lineage.expand(len(prefix), -1, -1)], -1)
            rows = torch.cat([held, own.positions.expand(len(held), -1)], 1)  # [h, C+S]
            if self.eviction.hides(self.deepest):
                mask = mask & (self.eviction.visible(query, rows) | (query == rows[:, None]))
            if window is not None:
                mask = mask & (query - rows[:, None] < window)
            self._masks[key] = mask
        mask = self._masks[key]
        own_heads = mask if len(mask) == 1 else mask[heads]
        return own_heads[0] if len(own_heads) == 1 else own_heads

    def visible(self, layer: TreeLayer, window: int | None) -> native.Visible:
        """`mask` as the kernels take it: a number of rows that every query sees, and a mask of the
        others."""
        table = layer.table
        key = id(table), window, layer.place if layer.by_head else 0
        if key not in self._visible:
            hides = table.hides(self.deepest) or self.eviction.hides(self.deepest)
            if window is None and not hides:
                paths = self.host.paths
                shape = 1, len(paths), len(paths[0])
                visible = native.Visible(table.count, b"".join(paths), shape)
            else:
                mask = self.mask(layer, window)
                visible = native.Visible.of(0, mask if mask.ndim == 3 else mask[None])
            self._visible[key] = visible
        return self._visible[key]


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
    _require_known(module, attention_mask, other)
    index = cast("int", module.layer_idx)
    windows = (now.cache.layers[index].window, sliding_window)
    if windows[0] is not None and sliding_window is None and not _masks_windows(module):
        raise ModelError(
            "it attends to a whole prompt, but later to a sliding window alone: its tokens depend on "
            "where the prompt ended"
        )
    window = min((size for size in windows if size is not None), default=None)
    config = AttentionConfig(scaling or query.shape[-1] ** -0.5, softcap, s_aux, window)
    return attend(now, index, query, key, value, config), None


def _masks_windows(module: torch.nn.Module) -> bool:
    """Whether a model's own masks, which are not asked for here, have sliding windows."""
    return hasattr(sys.modules[type(module).__module__], "create_sliding_window_causal_mask")


def attend(
    now: Pass, index: int, query: Tensor, key: Tensor, value: Tensor, config: AttentionConfig
) -> Tensor:
    """Attention of layer `index` in a pass: query [1, H, N, D], K/V [1, H_kv, C+S, D] → [1, N, H, D].

    Shorter passes run in our kernels where these know the tensors, longer ones in PyTorch.
    """
    now.calls += 1
    layer: TreeLayer = now.cache.layers[index]
    layer.attention = config
    if now.whole_prompt:
        out = _causal(query, key, value, config)
    elif query.shape[2] <= WIDE and (kernels := native.for_attention(query, key, value)):
        visible = now.visible(layer, config.window)
        out = kernels.attention(
            query, key, value, visible, config.scaling, config.softcap, config.s_aux
        )
    else:
        out = _masked(query, key, value, now.mask(layer, config.window), config)
    now.eviction.after_attention(layer, query[0], key, value)
    return out


def _require_known(module: torch.nn.Module, mask: Tensor | None, other: dict[str, Any]) -> None:
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


def _masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, config: AttentionConfig
) -> Tensor:
    """Attention [1, N, H, D] under a mask [N, K] or [H_kv, N, K]."""
    groups = query.shape[1] // key.shape[1]
    if config.by_scores_alone:
        if mask.ndim == 3:
            mask = mask.repeat_interleave(groups, 0)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=config.scaling, enable_gqa=groups > 1
        )
    else:
        grouped = query[0].reshape(key.shape[1], groups, *query.shape[2:])
        visible = mask if mask.ndim == 2 else mask[:, None]
        weights = config.weights(grouped, key[0, :, None], visible).to(value.dtype)
        out = (weights @ value[0, :, None]).reshape(1, query.shape[1], -1, value.shape[3])
    return out.transpose(1, 2).contiguous()


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, config: AttentionConfig
) -> Tensor:
    """Attention [M, H·D] of query [M, H, D] on K/V [H_kv, K, D] under a mask [M, K]."""
    return _masked(query.transpose(0, 1)[None], key[None], value[None], mask, config)[0].flatten(1)


def _causal(query: Tensor, key: Tensor, value: Tensor, config: AttentionConfig) -> Tensor:
    """Attention [1, P, H, D] of a whole prompt over itself, a block of queries at a time."""
    count, blocks = query.shape[2], []
    at = torch.arange(count, device=query.device)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        block = at[first:last]
        mask = at[None, :last] <= block[:, None]
        if config.window is not None:
            mask &= block[:, None] - at[None, :last] < config.window
        part = query[:, :, first:last]
        blocks.append(_masked(part, key[:, :, :last], value[:, :, :last], mask, config))
    return torch.cat(blocks, 1)


AttentionInterface.register(NAME, tree_attention)
