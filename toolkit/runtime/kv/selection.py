"""Which rows a policy that scores keeps: the same ones whatever the schedule that led here."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import StrategyError
from toolkit.interfaces import KVPolicy
from toolkit.view import KVView


def chosen(policy: KVPolicy, view: KVView, scores: Tensor, eligible: Tensor) -> Tensor:
    """The rows to keep, bool [H_kv, C], of those `eligible[H_kv, C]`.

    Sinks and recent positions first, then by score; no head keeps more than its capacity. Scores
    are rounded to bfloat16 and ties go to the newer position, so that the last bits of a sum, which
    depend on the shape of the passes before, do not decide.
    """
    worth = rounded(scores).masked_fill(protected(policy, view), torch.inf)
    rank = ranked(worth.masked_fill(~eligible, -torch.inf))
    return eligible & (rank < capacity_of(policy, view))


def rounded(scores: Tensor) -> Tensor:
    """Scores on a coarse grid, all of them finite; NaN is the lowest."""
    lowest, highest = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
    return scores.to(torch.bfloat16).float().nan_to_num(lowest, highest, lowest)


def protected(policy: KVPolicy, view: KVView) -> Tensor:
    """Sinks and recent positions, bool [H_kv, C]."""
    held = view.positions
    return (held < policy.sinks) | (held >= view.now - policy.recent)


def ranked(worth: Tensor) -> Tensor:
    """Each row's rank [H_kv, C], 0 for the worthiest, the newer of two equals before the older."""
    newest_first = worth.flip(1).argsort(dim=1, descending=True, stable=True)
    return newest_first.argsort(1).flip(1)


@torch.no_grad()
def scores_of(policy: KVPolicy, view: KVView) -> Tensor:
    """The policy's scores [H_kv, C]. Raises `StrategyError` when they are something else."""
    scores, shape = policy.score(view), view.positions.shape
    fits = isinstance(scores, Tensor) and scores.shape in (shape, (1, shape[1]))
    if not fits or not scores.is_floating_point():
        got = f"{list(scores.shape)} {scores.dtype}" if isinstance(scores, Tensor) else repr(scores)
        raise StrategyError(
            f"KV policy {policy.name!r} scored {got}, but layer {view.layer} holds {list(shape)} rows: "
            f"return floats of that shape, or of [1, {shape[1]}]"
        )
    return scores.expand(shape)


def capacity_of(policy: KVPolicy, view: KVView) -> Tensor:
    """Positions to keep, [1, 1] or [H_kv, 1]. Raises `StrategyError` when it is something else."""
    capacity, heads = policy.capacity(view), len(view.positions)
    sizes = capacity if isinstance(capacity, Tensor) else None
    if sizes is None and isinstance(capacity, int):
        sizes = torch.tensor([capacity])
    if sizes is None or sizes.is_floating_point() or sizes.shape not in ((1,), (heads,)):
        raise StrategyError(
            f"KV policy {policy.name!r} has a capacity of {capacity!r} in layer {view.layer}: return a "
            f"whole number, or int64 [{heads}], one for each KV head"
        )
    return sizes.to(view.positions.device)[:, None]
