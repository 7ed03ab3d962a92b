"""The k greatest logits of each row, and the logarithm of the row's normaliser."""

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

BLOCK = 4096  # logits of a program


def top_tokens(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `k` greatest of `logits[M, V]`, greatest first: values [M, k], float32, token ids [M, k],
    int32, and each row's log-sum-exp [M], float32.

    Equal logits come in the order of their ids, so that the first is the argmax of greedy decoding.
    `values[:, 0] - values[:, 1]` is the margin; `values - normaliser[:, None]` are log-probabilities.
    """
    return unpack(packed_top_tokens(logits, k))


def unpack(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values [M, k], token ids [M, k] and log-sum-exps [M] of `packed_top_tokens`."""
    k = packed.shape[1] // 2
    values, sums = packed[:, :k].view(torch.float32), packed[:, 2 * k].view(torch.float32)
    return values, packed[:, k : 2 * k], sums


def packed_top_tokens(logits: Tensor, k: int) -> Tensor:
    """What `top_tokens` gives, in one tensor that is read in one copy: int32 [M, 2 · k + 1], a row's
    values, ids and log-sum-exp, of which floats are there bit by bit."""
    if not runs(logits):
        values, ids, sums = top_tokens_plain(logits, k)
        return torch.cat([values.view(torch.int32), ids, sums[:, None].view(torch.int32)], 1)
    rows, vocabulary = logits.shape
    blocks = -(-vocabulary // BLOCK)
    found = logits.new_empty((rows, blocks, k), dtype=torch.float32)
    tokens = logits.new_empty((rows, blocks, k), dtype=torch.int32)
    sums = logits.new_empty((rows, blocks, 2), dtype=torch.float32)
    packed = logits.new_empty((rows, 2 * k + 1), dtype=torch.int32)
    with device_of(logits):
        top_of_block[(rows, blocks)](
            logits, found, tokens, sums, logits.stride(0), vocabulary=vocabulary, blocks=blocks,
            k=k, padded=power_of_two(k), block=BLOCK, num_warps=8,
            **overlap(logits.device),
        )  # fmt: skip
        top_of_blocks[(rows,)](
            found, tokens, sums, packed,
            blocks=blocks, k=k, padded=power_of_two(k), size=power_of_two(blocks * k),
            padded_blocks=power_of_two(blocks), num_warps=4, **overlap(logits.device),
        )  # fmt: skip
    return packed


def top_tokens_plain(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain PyTorch."""
    values, ids = (part[:, :k] for part in logits.sort(dim=-1, descending=True, stable=True))
    return values.float(), ids.to(torch.int32), logits.float().logsumexp(-1)


@jit
def top_of_block(
    logits_ptr, found_ptr, tokens_ptr, sums_ptr, stride, vocabulary: tl.constexpr,
    blocks: tl.constexpr, k: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (row, block): the k greatest of a block, its maximum and its sum of exponentials."""
    begin(overlaps)
    row, part = tl.program_id(0), tl.program_id(1)
    token = part * block + tl.arange(0, block)
    inside = token < vocabulary
    x = tl.load(logits_ptr + row * stride + token, mask=inside, other=float("-inf")).to(tl.float32)
    top = tl.max(tl.where(x == x, x, float("-inf")), 0)  # NaN comes in with the sum
    base = tl.where(top == float("-inf"), 0.0, top)
    to = row * blocks + part
    tl.store(sums_ptr + to * 2, top)
    tl.store(sums_ptr + to * 2 + 1, tl.sum(tl.exp(x - base), 0))
    values, ids = _greatest(x, token, inside, k, padded)
    lanes = tl.arange(0, padded)
    tl.store(found_ptr + to * k + lanes, values, mask=lanes < k)
    tl.store(tokens_ptr + to * k + lanes, ids, mask=lanes < k)


@jit
def top_of_blocks(
    found_ptr, tokens_ptr, sums_ptr, packed_ptr, blocks: tl.constexpr,
    k: tl.constexpr, padded: tl.constexpr, size: tl.constexpr, padded_blocks: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (row): the k greatest of all blocks' greatest, and the log-sum-exp."""
    begin(overlaps)
    row = tl.program_id(0)
    part = tl.arange(0, padded_blocks)
    sums = sums_ptr + (row * blocks + part) * 2
    tops = tl.load(sums, mask=part < blocks, other=float("-inf"))
    total = tl.load(sums + 1, mask=part < blocks, other=0.0)
    top = tl.max(tops, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    normaliser = base + tl.log(tl.sum(total * tl.exp(tops - base), 0))
    to = packed_ptr + row * (2 * k + 1)
    tl.store(to + 2 * k, normaliser.to(tl.int32, bitcast=True))
    at = tl.arange(0, size)
    inside = at < blocks * k
    x = tl.load(found_ptr + row * blocks * k + at, mask=inside, other=float("-inf"))
    token = tl.load(tokens_ptr + row * blocks * k + at, mask=inside, other=0)
    values, ids = _greatest(x, token, inside & (token >= 0), k, padded)
    lanes = tl.arange(0, padded)
    tl.store(to + lanes, values.to(tl.int32, bitcast=True), mask=lanes < k)
    tl.store(to + k + lanes, ids, mask=lanes < k)


@jit
def _greatest(x, token, left, k: tl.constexpr, padded: tl.constexpr):
    """The k greatest of x where `left`, of equals those with the lowest tokens; −1 where none is. As in
    PyTorch, NaN is above all numbers: they are compared by integers in the same order."""
    lanes = tl.arange(0, padded)
    bits = tl.where(x != x, float("nan"), x + 0.0).to(tl.int32, bitcast=True)  # −0 + 0 is 0
    order = _flip(bits)
    values = tl.full((padded,), -2147483648, tl.int32)
    ids = tl.full((padded,), -1, tl.int32)
    for i in tl.static_range(k):
        best = tl.max(tl.where(left, order, -2147483648), 0)
        # −inf is a logit, too: masked vocabularies have it.
        chosen = tl.min(tl.where(left & (order == best), token, 2147483647), 0)
        left = left & (token != chosen)
        values = tl.where(lanes == i, best, values)
        ids = tl.where(lanes == i, tl.where(chosen == 2147483647, -1, chosen), ids)
    found = _flip(values).to(tl.float32, bitcast=True)
    return tl.where(ids < 0, float("-inf"), found), ids


@jit
def _flip(bits):
    """The bits of floats as integers in the same order, and back: all but the sign of negative ones are
    inverted."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
