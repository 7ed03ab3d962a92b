"""Which rows a policy that scores keeps: the same ones whatever the schedule of the passes before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.errors import StrategyError
from toolkit.interfaces import ScorePolicy
from toolkit.kv_view import KVView
from toolkit.transfer import send


@torch.no_grad()
def scores_of(policy: ScorePolicy, view: KVView) -> Tensor:
    """The policy's scores [H_kv, C]. Raises `StrategyError` when it answers something else."""
    scores, shape = policy.score(view), view.positions.shape
    allowed = [shape] if policy.headwise else [shape, (1, shape[1])]
    fits = isinstance(scores, Tensor) and scores.shape in allowed
    if not fits or not scores.is_floating_point():
        got = f"{list(scores.shape)} {scores.dtype}" if isinstance(scores, Tensor) else repr(scores)
        other = "" if policy.headwise else f", or of [1, {shape[1]}]"
        raise StrategyError(
            f"KV policy {policy.name!r} scored {got}, but layer {view.layer} holds {list(shape)} rows: "
            f"return floats of that shape{other}"
        )
    return scores.expand(shape)


def capacity_of(policy: ScorePolicy, view: KVView) -> int | Tensor:
    """Positions to keep in a layer: a number, or [1] or [H_kv]. Raises `StrategyError` when it answers
    something else."""
    capacity, heads = policy.capacity(view), len(view.positions)
    if isinstance(capacity, Tensor):
        fits = not capacity.is_floating_point() and capacity.shape in ((1,), (heads,))
    else:
        fits = isinstance(capacity, int)
    if not fits:
        raise StrategyError(
            f"KV policy {policy.name!r} has a capacity of {capacity!r} in layer {view.layer}: return a "
            f"whole number, or int64 [{heads}], one for each KV head"
        )
    return capacity


def _capacities(policy: ScorePolicy, views: Sequence[KVView]) -> int | Tensor:
    """Positions to keep in each of some layers: one number, or [H_kv of all, 1]."""
    found = [capacity_of(policy, view) for view in views]
    heads, device = len(views[0].positions), views[0].positions.device
    numbers = [capacity for capacity in found if isinstance(capacity, int)]
    if len(numbers) == len(found):
        if len(set(numbers)) == 1:
            return numbers[0]
        return send(device, torch.tensor(numbers))[0].repeat_interleave(heads)[:, None]
    parts = [
        torch.full((heads,), part, device=device) if isinstance(part, int) else part.expand(heads)
        for part in found
    ]
    return torch.cat([part.to(device) for part in parts])[:, None]


def select(
    policy: ScorePolicy,
    view: KVView,
    scores: Tensor,
    eligible: Tensor,
    each: Sequence[KVView] = (),
) -> Tensor:
    """The rows to keep, bool [H_kv, C], among `eligible[H_kv, C]`; `each` are the views of the layers
    that a view of several covers.

    Sinks and recent positions come first, then the highest scores; no head keeps more than its
    capacity. Scores are rounded to bfloat16 and of equal ones the newer position stays, because the
    last bits of a sum depend on the shapes of the passes before.
    """
    worth = rounded(scores).masked_fill(protected(policy, view), torch.inf)
    ranks = rank(worth.masked_fill(~eligible, -torch.inf))
    return eligible & (ranks < _capacities(policy, each or [view]))


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
