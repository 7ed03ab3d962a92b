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
    capacity = torch.as_tensor(policy.capacity(view), device=rank.device).reshape(-1, 1)
    return eligible & (rank < capacity)


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


def scores_of(policy: KVPolicy, view: KVView) -> Tensor:
    """The policy's scores [H_kv, C]. Raises `StrategyError` when they have another shape."""
    scores, shape = policy.score(view), view.positions.shape
    if scores.shape not in (shape, (1, shape[1])) or not scores.is_floating_point():
        raise StrategyError(
            f"KV policy {policy.name!r} scored {list(scores.shape)} ({scores.dtype}), but layer "
            f"{view.layer} holds {list(shape)} rows: return floats of that shape, or of [1, {shape[1]}]"
        )
    return scores.expand(shape)
