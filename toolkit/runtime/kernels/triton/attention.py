"""Attention of a tree's rows over the committed rows and their own paths, in position order.

Keys are taken in splits of `SPLIT` positions. The partial results are merged in the order of the
splits (split-KV decoding, Dao et al. 2023). Splits of committed rows alone are computed for 16
rows of queries at a time, the grouped queries of a KV head together. The last ones, which hold
drafted rows, are computed node by node through the path table. Both multiply tiles of the same shape
in the same order, so a row's bits depend on the keys and values of its path alone.
"""

from __future__ import annotations

from math import e, log2

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.runtime.kernels.triton.jit import (
    begin,
    device_of,
    jit,
    overlap,
    power_of_two,
    runs,
    tl,
)

SPLIT = 64  # positions
ROWS = 16  # of a tile of queries, the least that tensor cores take
MERGED = 32  # splits merged at a time
PROGRAMS = 1024  # that share the committed splits, at most about


def tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    length: Tensor,
    depths: Tensor,
    paths: Tensor,
    scaling: float,
    window: int | None = None,
    visible: Tensor | None = None,
) -> Tensor:
    """Attention of query [M, H, D] over the K/V rows [H_kv, R, D] of a cache → [M, H, D].

    Row m sees the committed rows 0 … C−1, whose indices are their positions, then the rows
    `paths[m, 0 … depths[m]]`, the last of which is its own. int32 on the device: `length[1]` is C,
    `depths[M]`, and `paths[M, P]`, whose other entries repeat the row's own. With
    `window`, keys that many positions or more before the row are hidden; `visible[h, M, R]`, bool, h 1
    or H_kv, hides rows of the cache. All rows of the cache hold finite numbers.
    """
    if runs(query) and query.shape[1] <= ROWS * len(keys):  # a node's grouped queries fill a tile
        return _kernels(query, keys, values, length, depths, paths, scaling, window, visible)
    return tree_attention_plain(
        query, keys, values, length, depths, paths, scaling, window, visible
    )


def tree_attention_plain(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    length: Tensor,
    depths: Tensor,
    paths: Tensor,
    scaling: float,
    window: int | None = None,
    visible: Tensor | None = None,
) -> Tensor:
    """The same in plain PyTorch, under a mask of all R rows."""
    rows = torch.arange(keys.shape[1], device=query.device)
    on_path = torch.arange(paths.shape[1], device=query.device)
    nearest = -(1 << 30) if window is None else 1 - window
    mask = (rows < length) & (rows >= length + depths[:, None] + nearest)
    mask = mask.scatter(1, paths.long(), on_path >= depths[:, None] + nearest)[None]
    if visible is not None:
        mask = mask & visible
    groups = query.shape[1] // len(keys)
    heads = mask if len(mask) == 1 else mask.repeat_interleave(groups, 0)
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=heads[None],
        scale=scaling,
        enable_gqa=groups > 1,
    )
    return out[0].transpose(0, 1).contiguous()


def _kernels(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    length: Tensor,
    depths: Tensor,
    paths: Tensor,
    scaling: float,
    window: int | None,
    visible: Tensor | None,
) -> Tensor:
    rows, heads, width = query.shape
    kv_heads, capacity, _ = keys.shape
    groups, splits = heads // kv_heads, -(-capacity // SPLIT)
    tiles = -(-rows * groups // ROWS)
    strides = max(1, min(splits, PROGRAMS // (kv_heads * tiles)))
    tails = -(-(SPLIT - 1 + paths.shape[1]) // SPLIT)  # splits that a path and the rest may touch
    wide = query.dtype is torch.float32  # whose tiles take more registers
    sums = query.new_empty((rows * heads, splits, width), dtype=torch.float32)
    stats = query.new_empty((rows * heads, splits, 2), dtype=torch.float32)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    mask = keys if visible is None else visible.view(torch.uint8)  # any pointer where there is none
    mask_strides = (0, 0) if visible is None else (mask.stride(0) * (len(mask) > 1), mask.stride(1))
    shape = {
        "groups": groups,
        "width": width,
        "window": window or 0,
        "split": SPLIT,
        **overlap(query.device),
    }
    with device_of(query):
        split_attention[(kv_heads, tiles * strides + tails * rows)](
            query, keys, values, mask, length, depths, paths, sums, stats, scaling * log2(e),
            *query.stride()[:2], *keys.stride()[:2], *values.stride()[:2], *mask_strides,
            rows, tiles, strides, splits,
            **shape, padded=max(16, power_of_two(width)), longest=paths.shape[1],
            masked=visible is not None, tails=tails, tile=ROWS, block=16 if wide else 64,
            num_warps=8 if wide else 4, num_stages=2,
        )  # fmt: skip
        merge_splits[(kv_heads, rows * groups)](
            sums, stats, out, length, depths, rows, splits,
            **shape, padded=power_of_two(width), merged=MERGED, num_warps=2,
        )  # fmt: skip
    return out


@jit
def split_attention(
    query_ptr, keys_ptr, values_ptr, mask_ptr, length_ptr, depths_ptr, paths_ptr, sums_ptr, stats_ptr,
    scale, query_row, query_head, key_head, key_row, value_head, value_row, mask_head, mask_row,
    rows, tiles, strides, splits, groups: tl.constexpr, width: tl.constexpr,
    window: tl.constexpr, split: tl.constexpr, padded: tl.constexpr,
    longest: tl.constexpr, masked: tl.constexpr,
    tails: tl.constexpr, tile: tl.constexpr, block: tl.constexpr, overlaps: tl.constexpr,
):  # fmt: skip
    """Partial results: a running maximum, a sum and a weighted sum of values for each row and split.

    Programs (KV head, t): below tiles · strides, a tile of 16 rows over every `strides`-th split that
    lies wholly below C; the others one node over one of the `tails` splits that may reach beyond.
    """
    begin(overlaps)
    head, t = tl.program_id(0), tl.program_id(1)
    length = tl.load(length_ptr)
    full = length // split  # splits of committed rows alone
    lanes = tl.arange(0, tile)
    if t < tiles * strides:
        row = t // strides * tile + lanes
        live = row < rows * groups
        lowest = 0
        if window > 0:
            lowest = tl.maximum(length + 1 - window, 0) // split
        for s in range(lowest + t % strides, full, strides):
            _attend_split(
                s, row, live, 0, False, length, head,
                query_ptr, keys_ptr, values_ptr, mask_ptr, depths_ptr, paths_ptr, sums_ptr, stats_ptr,
                scale, query_row, query_head, key_head, key_row, value_head, value_row,
                mask_head, mask_row, rows, splits, groups, width, window, split, padded,
                longest, masked, tile, block,
            )  # fmt: skip
    else:
        node = (t - tiles * strides) // tails
        s = full + (t - tiles * strides) % tails
        if s * split <= length + tl.load(depths_ptr + node):
            row = node * groups + lanes
            _attend_split(
                s, row, lanes < groups, node, True, length, head,
                query_ptr, keys_ptr, values_ptr, mask_ptr, depths_ptr, paths_ptr, sums_ptr, stats_ptr,
                scale, query_row, query_head, key_head, key_row, value_head, value_row,
                mask_head, mask_row, rows, splits, groups, width, window, split, padded,
                longest, masked, tile, block,
            )  # fmt: skip


@jit
def _attend_split(
    s, row, live, node, drafted: tl.constexpr, length, head,
    query_ptr, keys_ptr, values_ptr, mask_ptr, depths_ptr, paths_ptr, sums_ptr, stats_ptr,
    scale, query_row, query_head, key_head, key_row, value_head, value_row, mask_head, mask_row,
    rows, splits, groups: tl.constexpr, width: tl.constexpr,
    window: tl.constexpr, split: tl.constexpr, padded: tl.constexpr,
    longest: tl.constexpr, masked: tl.constexpr, tile: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One tile of rows over the positions of split `s`; `row` counts nodes × grouped queries."""
    n = row // groups
    d = tl.arange(0, padded)
    queries = query_ptr + n * query_row + (head * groups + row % groups) * query_head
    q = tl.load(queries[:, None] + d, mask=live[:, None] & (d < width), other=0.0)
    position = length + tl.load(depths_ptr + n, mask=live, other=0)  # of each row
    top = tl.full((tile,), float("-inf"), tl.float32)
    total = tl.zeros((tile,), tl.float32)
    acc = tl.zeros((tile, padded), tl.float32)
    end = s * split + split
    if drafted:
        end = tl.minimum(end, length + tl.load(depths_ptr + node) + 1)
    for start in range(s * split, end, block):
        at = start + tl.arange(0, block)
        held = at < end
        slot = at
        if drafted:
            beyond = held & (at >= length)
            slot = tl.where(
                beyond, tl.load(paths_ptr + node * longest + at - length, mask=beyond, other=0), at
            )
        seen = held[None, :] & live[:, None]
        if window > 0:
            seen = seen & (position[:, None] - at[None, :] < window)
        if masked:
            hides = mask_ptr + head * mask_head + n[:, None] * mask_row + slot[None, :]
            seen = seen & (tl.load(hides, mask=seen, other=0) != 0)
        key = keys_ptr + head * key_head + slot[:, None] * key_row
        value = values_ptr + head * value_head + slot[:, None] * value_row
        inside = held[:, None] & (d < width)
        k = tl.load(key + d, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(seen, scores * scale, float("-inf"))
        now = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(now == float("-inf"), 0.0, now)
        before = tl.exp2(top - base)
        weights = tl.exp2(scores - base[:, None])
        total = total * before + tl.sum(weights, 1)
        v = tl.load(value + d, mask=inside, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * before[:, None], input_precision="ieee")
        top = now
    part = (head * rows * groups + row) * splits + s
    sums = sums_ptr + part[:, None].to(tl.int64) * width
    tl.store(sums + d, acc, mask=live[:, None] & (d < width))
    tl.store(stats_ptr + part * 2, top, mask=live)
    tl.store(stats_ptr + part * 2 + 1, total, mask=live)


@jit
def merge_splits(
    sums_ptr, stats_ptr, out_ptr, length_ptr, depths_ptr,
    rows, splits, groups: tl.constexpr, width: tl.constexpr,
    window: tl.constexpr, split: tl.constexpr, padded: tl.constexpr, merged: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """Merge one row's splits, `merged` at a time, from the same ones on for every row."""
    begin(overlaps)
    head, row = tl.program_id(0), tl.program_id(1)
    d, lanes = tl.arange(0, padded), tl.arange(0, merged)
    length = tl.load(length_ptr)
    last = (length + tl.load(depths_ptr + row // groups)) // split
    lowest = 0
    if window > 0:
        lowest = tl.maximum(length + 1 - window, 0) // split
    top = float("-inf")
    total = 0.0
    acc = tl.zeros((padded,), tl.float32)
    for start in range(lowest // merged * merged, last + 1, merged):
        s = start + lanes
        held = (s >= lowest) & (s <= last)
        part = (head * rows * groups + row) * splits + s
        tops = tl.load(stats_ptr + part * 2, mask=held, other=float("-inf"))
        totals = tl.load(stats_ptr + part * 2 + 1, mask=held, other=0.0)
        sums = sums_ptr + part[:, None].to(tl.int64) * width
        sums = tl.load(sums + d, mask=held[:, None] & (d < width), other=0.0)
        now = tl.maximum(top, tl.max(tops, 0))
        base = tl.where(now == float("-inf"), 0.0, now)
        before, weights = tl.exp2(top - base), tl.exp2(tops - base)
        total = total * before + tl.sum(totals * weights, 0)
        acc = acc * before + tl.sum(sums * weights[:, None], 0)
        top = now
    node, group = row // groups, row % groups
    heads = tl.num_programs(0) * groups
    to = out_ptr + (node * heads + head * groups + group) * width + d
    tl.store(to, (acc / total).to(out_ptr.dtype.element_ty), mask=d < width)
