"""Compare caches and tensors. A difference raises `Broken`."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.runtime.kv.cache import TreeCache

TOLERANCE = 1e-9  # float64: schedules differ by 1e-14, bugs by far more
GLOBAL_RANDOM = "the global random state changed"
ROUNDING = 100  # units in the last place, which is more in float32
Snapshot = list[tuple[Tensor, Tensor, Tensor]]  # per layer: positions, keys, values


class Broken(AssertionError):  # noqa: N818 it names a finding, not an error
    """A property does not hold. The message says where."""


def snapshot(cache: TreeCache) -> Snapshot:
    """Copy the committed rows of a cache, with empty rows set to zero."""
    return [
        (held.clone(), keys * (held >= 0)[..., None], values * (held >= 0)[..., None])
        for held, keys, values in cache.committed()
    ]


def require_same_rows(
    ours: Snapshot, theirs: Snapshot, where: str, tolerance: float = TOLERANCE
) -> None:
    """Raise `Broken` when two snapshots differ by more than `tolerance`."""
    for layer, (mine, wanted) in enumerate(zip(ours, theirs, strict=True)):
        if mine[0].tolist() != wanted[0].tolist():
            raise Broken(
                f"layer {layer} holds positions {mine[0].tolist()}, AR {wanted[0].tolist()}, {where}"
            )
        for held, right in zip(mine[1:], wanted[1:], strict=True):
            require_close(held, right, f"layer {layer} {where}", tolerance)


def require_close(ours: Tensor, theirs: Tensor, where: str, tolerance: float = TOLERANCE) -> None:
    """Raise `Broken` when two tensors differ by more than `tolerance` anywhere, and by more than
    rounding, unless it is 0."""
    finite = torch.isfinite(theirs)
    worst = float((ours - theirs)[finite].abs().max()) if finite.any() else 0.0
    allowed = max(tolerance, ROUNDING * torch.finfo(ours.dtype).eps) if tolerance else 0.0
    if worst > allowed or not torch.equal(torch.isfinite(ours), finite):
        raise Broken(f"off by {worst:.2g}: {where}")
