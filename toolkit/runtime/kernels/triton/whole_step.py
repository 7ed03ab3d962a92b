"""What a whole step does between its passes, each in one launch: inputs, children, and judgement.

A step's numbers are one int32 tensor [5 · N + 5] for a tree of N nodes. First come the cached length L
and the last cached token. Then, for each node: its token (the root's first), the target's choice after
it, the bits of its log-probability and of the choice's margin, float32, and a node of the path. Last
come L, the last cached token and the root of the step after it.
"""

from __future__ import annotations

import torch
from attrs import frozen
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

BLOCK = 1024  # numbers of a pass that a program writes
LEAST = 16  # nodes of the smallest kind of launch


@frozen(eq=False)
class Paths:
    """The paths of trees of one shape with N nodes, on a device."""

    parents: Tensor  # int32 [N], 0 at the root
    depths: Tensor  # int32 [N]
    beside: Tensor  # int8 [N, N]: 1 for the nodes that are not on each node's path


def fill_inputs(
    inputs: Tensor, base: Tensor, slope: Tensor, length: Tensor, tokens: Tensor, rows: int, last: int
) -> None:
    """Write `base + slope · L` to `inputs`, all int32 [S], with L in `length[1]`; but from the second
    number on, `tokens[n]`, at most `last`, of which the last one fills all `rows`."""
    if not runs(inputs):
        fill_inputs_plain(inputs, base, slope, length, tokens, rows, last)
        return
    size = len(inputs)
    with device_of(inputs):
        fill_inputs_kernel[(-(-size // BLOCK),)](
            inputs, base, slope, length, tokens, size, len(tokens), rows, last, block=BLOCK,
            **overlap(inputs.device),
        )  # fmt: skip


def fill_inputs_plain(
    inputs: Tensor, base: Tensor, slope: Tensor, length: Tensor, tokens: Tensor, rows: int, last: int
) -> None:
    """The same in plain PyTorch."""
    inputs.copy_(base + slope * length)
    padded = torch.cat([tokens, tokens[-1:].expand(rows - len(tokens))])
    inputs[1 : 1 + rows].copy_(padded.clamp(max=last))


@jit
def fill_inputs_kernel(
    inputs_ptr, base_ptr, slope_ptr, length_ptr, sources_ptr, size, count, rows, last,
    block: tl.constexpr, overlaps: tl.constexpr,
):  # fmt: skip
    """Programs: `block` numbers each."""
    begin(overlaps)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < size
    base = tl.load(base_ptr + at, mask=inside, other=0)
    slope = tl.load(slope_ptr + at, mask=inside, other=0)
    is_token = (at >= 1) & (at <= rows)
    token = tl.load(sources_ptr + tl.minimum(at - 1, count - 1), mask=is_token, other=0)
    number = base + slope * tl.load(length_ptr)
    tl.store(inputs_ptr + at, tl.where(is_token, tl.minimum(token, last), number), mask=inside)


def take_children(step: Tensor, top: Tensor, chosen: Tensor, first: int) -> None:
    """Write the tokens and log-probabilities of nodes from `first` on into a step's numbers: of
    `top[F, 2 · k + 1]`, as `packed_top_tokens` gives it, candidates `chosen[C]` of the F · k."""
    if not runs(step):
        take_children_plain(step, top, chosen, first)
        return
    count, nodes = len(chosen), (len(step) - 5) // 5
    with device_of(step):
        take_children_kernel[(1,)](
            step, top, chosen, first, count, nodes, k=top.shape[1] // 2,
            padded=power_of_two(max(LEAST, count)), num_warps=1, **overlap(step.device),
        )  # fmt: skip


def take_children_plain(step: Tensor, top: Tensor, chosen: Tensor, first: int) -> None:
    """The same in plain PyTorch."""
    k, count, nodes = top.shape[1] // 2, len(chosen), (len(step) - 5) // 5
    floats = top.view(torch.float32)
    logprobs = (floats[:, :k] - floats[:, 2 * k :]).flatten().index_select(0, chosen)
    tokens = top[:, k : 2 * k].flatten().index_select(0, chosen).clamp(min=0)
    step[2 + first : 2 + first + count].copy_(tokens)
    begin = 2 + 2 * nodes + first
    step[begin : begin + count].copy_(logprobs.view(torch.int32))


@jit
def take_children_kernel(
    step_ptr, top_ptr, chosen_ptr, first, count, nodes, k: tl.constexpr, padded: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """One program."""
    begin(overlaps)
    child = tl.arange(0, padded)
    inside = child < count
    chosen = tl.load(chosen_ptr + child, mask=inside, other=0)
    row = top_ptr + (chosen // k) * (2 * k + 1)
    value = tl.load(row + chosen % k, mask=inside, other=0).to(tl.float32, bitcast=True)
    total = tl.load(row + 2 * k, mask=inside, other=0).to(tl.float32, bitcast=True)
    token = tl.load(row + k + chosen % k, mask=inside, other=0)
    tokens = step_ptr + 2 + first + child
    tl.store(tokens, tl.maximum(token, 0), mask=inside)  # −1 for logits of NaN
    tl.store(tokens + 2 * nodes, (value - total).to(tl.int32, bitcast=True), mask=inside)


def judge(step: Tensor, top: Tensor, paths: Paths) -> None:
    """Complete the numbers of a step whose tokens are there: the target's choices and their margins,
    by `top[N, 5]`, as `packed_top_tokens` gives it; the path of nodes that it chose, by depth, and d
    itself from the first depth d on that has none; and what the next step begins with."""
    if not runs(step):
        judge_plain(step, top, paths)
        return
    count = len(paths.parents)
    with device_of(step):
        judge_kernel[(1,)](
            step, top, paths.parents, paths.depths, paths.beside, count,
            padded=power_of_two(max(LEAST, count)), num_warps=4, **overlap(step.device),
        )  # fmt: skip


def judge_plain(step: Tensor, top: Tensor, paths: Paths) -> None:
    """The same in plain PyTorch."""
    count = len(paths.parents)
    nodes = torch.arange(count, dtype=torch.int32, device=step.device)
    tokens, choices, floats = step[2 : 2 + count], top[:, 2], top.view(torch.float32)
    equal = (tokens == choices.index_select(0, paths.parents)) | (nodes == 0)
    accepted = (equal | (paths.beside != 0)).all(1)
    of_depth = (paths.depths == nodes[:, None]) & accepted
    found = torch.where(of_depth, nodes, -1).amax(1)
    end = torch.where(accepted, nodes, -1).amax(0, keepdim=True)
    length = step[:1] + (found >= 0).sum(0, dtype=torch.int32)
    margins = (floats[:, 0] - floats[:, 1]).view(torch.int32)
    step[2 + count : 2 + 2 * count].copy_(choices)
    step[2 + 3 * count : 2 + 4 * count].copy_(margins)
    step[2 + 4 * count : 2 + 5 * count].copy_(torch.where(found < 0, nodes, found))
    root = choices.index_select(0, end).clamp(min=0)
    step[2 + 5 * count :].copy_(torch.cat([length, tokens.index_select(0, end), root]))


@jit
def judge_kernel(
    step_ptr, top_ptr, parents_ptr, depths_ptr, beside_ptr, count, padded: tl.constexpr,
    overlaps: tl.constexpr,
):  # fmt: skip
    """One program. Of two axes, the second one is that of nodes."""
    begin(overlaps)
    node = tl.arange(0, padded)
    inside = node < count
    tokens = step_ptr + 2 + node
    token = tl.load(tokens, mask=inside, other=0)
    row = top_ptr + node * 5
    choice = tl.load(row + 2, mask=inside, other=0)
    parent = tl.load(parents_ptr + node, mask=inside, other=0)
    wanted = tl.load(top_ptr + parent * 5 + 2, mask=inside, other=0)
    wrong = tl.where((node > 0) & (token != wanted), 1, 0)
    both = inside[:, None] & inside[None, :]
    beside = tl.load(beside_ptr + node[:, None] * count + node[None, :], mask=both, other=1)
    wrongs = tl.max(tl.where(beside == 0, wrong[None, :], 0), 1)
    accepted = inside & (wrongs == 0)
    depth = tl.load(depths_ptr + node, mask=inside, other=-1)
    of_depth = (depth[None, :] == node[:, None]) & accepted[None, :]
    found = tl.max(tl.where(of_depth, node[None, :], -1), 1)
    first, second = tl.load(row, mask=inside, other=0), tl.load(row + 1, mask=inside, other=0)
    margin = first.to(tl.float32, bitcast=True) - second.to(tl.float32, bitcast=True)
    tl.store(tokens + count, choice, mask=inside)
    tl.store(tokens + 3 * count, margin.to(tl.int32, bitcast=True), mask=inside)
    tl.store(tokens + 4 * count, tl.where(found < 0, node, found), mask=inside)
    at_end = node == tl.max(tl.where(accepted, node, -1), 0)
    following = step_ptr + 2 + 5 * count
    tl.store(following, tl.load(step_ptr) + tl.sum(tl.where(found < 0, 0, 1), 0))
    tl.store(following + 1, tl.sum(tl.where(at_end, token, 0), 0))
    root = tl.sum(tl.where(at_end, choice, 0), 0)
    tl.store(following + 2, tl.maximum(root, 0))  # −1 for logits of NaN
