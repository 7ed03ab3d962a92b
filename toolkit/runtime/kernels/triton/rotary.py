"""Rotate queries and keys, and write keys and values into the cache, in one launch.

RoPE (Su et al. 2021): dimension i is paired with i + r/2.
"""

from __future__ import annotations

import torch
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

HEADS = 8  # of a program


def rotate_and_store(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Rotate query [M, H, D] and key [M, H_kv, D], and write key and value [M, H_kv, D] into rows
    `slots[M]` of `keys` and `values` [H_kv, R, D]; returns the rotated query [M, H, D].

    Row m is rotated by rows `positions[m]` of the tables `cos` and `sin` [T, r], of which the first
    half of `sin` is negated; r = 0 does not rotate. The kernel rounds once, the plain form after each
    product, too. Positions and slots are int32 on the device. The
    three inputs may be strided views of one product; their heads lie in a row of D numbers.
    """
    if not runs(query):
        return rotate_and_store_plain(query, key, value, cos, sin, positions, slots, keys, values)
    rows, heads, width = query.shape
    kv_heads = key.shape[1]
    out = torch.empty((rows, heads, width), dtype=query.dtype, device=query.device)
    with device_of(query):
        rotate_and_store_kernel[(rows, -(-(heads + 2 * kv_heads) // HEADS))](
            query, key, value, cos, sin, positions, slots, keys, values, out,
            *query.stride()[:2], *key.stride()[:2], *value.stride()[:2],
            *keys.stride()[:2], *values.stride()[:2],
            heads=heads, kv_heads=kv_heads, width=width, rotated=cos.shape[1],
            padded=power_of_two(width), several=HEADS, num_warps=4, **overlap(query.device),
        )  # fmt: skip
    return out


def rotate_and_store_plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """The same in plain PyTorch."""
    cos, sin = cos[positions.long()][:, None], sin[positions.long()][:, None]
    keys.index_copy_(1, slots.long(), rotate(key, cos, sin).transpose(0, 1))
    values.index_copy_(1, slots.long(), value.transpose(0, 1))
    return rotate(query, cos, sin).contiguous()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first r dimensions of x [M, h, D]. `cos` and `sin` are [M, 1, r]; the first half of
    `sin` is negated."""
    width = cos.shape[-1]
    part = x[..., :width]
    left, right = part.chunk(2, -1)
    out = part * cos + torch.cat([right, left], -1) * sin
    return out if width == x.shape[-1] else torch.cat([out, x[..., width:]], -1)


@jit
def rotate_and_store_kernel(
    query_ptr, key_ptr, value_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr, keys_ptr, values_ptr,
    out_ptr, query_row, query_head, key_row, key_head, value_row, value_head, keys_head, keys_row,
    values_head, values_row, heads: tl.constexpr, kv_heads: tl.constexpr, width: tl.constexpr,
    rotated: tl.constexpr, padded: tl.constexpr, several: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (row, several heads), where query heads come first, then key heads, then value heads."""
    begin(overlaps)
    row = tl.program_id(0)
    head = tl.program_id(1) * several + tl.arange(0, several)
    d = tl.arange(0, padded)
    inside = (d < width)[None, :]
    is_query = (head < heads)[:, None] & inside
    is_key = ((head >= heads) & (head < heads + kv_heads))[:, None] & inside
    is_value = ((head >= heads + kv_heads) & (head < heads + 2 * kv_heads))[:, None] & inside
    queries = (query_ptr + row * query_row + head * query_head)[:, None]
    key = (key_ptr + row * key_row + (head - heads) * key_head)[:, None]
    value = (value_ptr + row * value_row + (head - heads - kv_heads) * value_head)[:, None]
    slot = tl.load(slots_ptr + row)
    x = tl.load(queries + d, mask=is_query, other=0.0)
    x = tl.where(is_key, tl.load(key + d, mask=is_key, other=0.0), x)
    if rotated > 0:
        turns = (d < rotated)[None, :]
        pair = tl.where(d < rotated, (d + rotated // 2) % rotated, 0)
        other = tl.load(queries + pair, mask=is_query & turns, other=0.0)
        other = tl.where(is_key, tl.load(key + pair, mask=is_key & turns, other=0.0), other)
        at = tl.load(positions_ptr + row) * rotated + d
        cos = tl.load(cos_ptr + at, mask=d < rotated, other=1.0).to(tl.float32)
        sin = tl.load(sin_ptr + at, mask=d < rotated, other=0.0).to(tl.float32)
        moved = x.to(tl.float32) * cos[None, :] + other.to(tl.float32) * sin[None, :]
        x = tl.where(turns, moved.to(x.dtype), x)
    x = tl.where(is_value, tl.load(value + d, mask=is_value, other=0.0), x)
    out = (out_ptr + (row * heads + head) * width)[:, None]
    keys = (keys_ptr + (head - heads) * keys_head + slot * keys_row)[:, None]
    values = (values_ptr + (head - heads - kv_heads) * values_head + slot * values_row)[:, None]
    tl.store(out + d, x, mask=is_query)
    tl.store(keys + d, x, mask=is_key)
    tl.store(values + d, x, mask=is_value)
