"""Which rows a policy that scores keeps: the same ones whatever the schedule of the passes before."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import StrategyError
from toolkit.interfaces import ScorePolicy
from toolkit.kv_view import KVView


@torch.no_grad()
def scores_of(policy: ScorePolicy, view: KVView) -> Tensor:
    """The policy's scores [H_kv, C]. Raises `StrategyError` when it answers something else."""
    scores, shape = policy.score(view), view.positions.shape
    fits = isinstance(scores, Tensor) and scores.shape in (shape, (1, shape[1]))
    if not fits or not scores.is_floating_point():
        got = f"{list(scores.shape)} {scores.dtype}" if isinstance(scores, Tensor) else repr(scores)
        raise StrategyError(
            f"KV policy {policy.name!r} scored {got}, but layer {view.layer} holds {list(shape)} rows: "
            f"return floats of that shape, or of [1, {shape[1]}]"
        )
    return scores.expand(shape)


def capacity_of(policy: ScorePolicy, view: KVView) -> Tensor:
    """Positions to keep, [1, 1] or [H_kv, 1]. Raises `StrategyError` when it answers something else."""
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


def select(policy: ScorePolicy, view: KVView, scores: Tensor, eligible: Tensor) -> Tensor:
    """The rows to keep, bool [H_kv, C], among `eligible[H_kv, C]`.

    Sinks and recent positions come first, then the highest scores; no head keeps more than its
    capacity. Scores are rounded to bfloat16 and of equal ones the newer position stays, because the
    last bits of a sum depend on the shapes of the passes before.
    """
    worth = rounded(scores).masked_fill(protected(policy, view), torch.inf)
    ranks = rank(worth.masked_fill(~eligible, -torch.inf))
    return eligible & (ranks < capacity_of(policy, view))


def rounded(scores: Tensor) -> Tensor:
    """Scores on a coarse grid, all of them finite; NaN becomes the lowest."""
    lowest, highest = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
    return scores.to(torch.bfloat16).float().nan_to_num(lowest, highest, lowest)


def protected(policy: ScorePolicy, view: KVView) -> Tensor:
    """Which rows are sinks or recent positions: bool [H_kv, C]."""
    held = view.positions
    return (held < policy.sinks) | (held >= view.now - policy.recent)


def rank(worth: Tensor) -> Tensor:
    """The rank [H_kv, C] of each row in its head, 0 for the highest; of equals the newer is first."""
    newest_first = worth.flip(1).argsort(dim=1, descending=True, stable=True)
    return newest_first.argsort(1).flip(1)
