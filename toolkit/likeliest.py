"""The likeliest tokens by logits, on the host: one kernel where the runtime has one, and one copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from toolkit.transfer import fetch

if TYPE_CHECKING:
    from torch import Tensor

MOST = 32  # candidates that a kernel is asked for


class Kernel(Protocol):
    """Finds the likeliest tokens on one type of device."""

    def __call__(
        self, logits: Tensor, k: int, noise: Tensor | None = None, scale: float = 0.0
    ) -> Tensor | None:
        """Of logits [M, V] + scale · noise and k ≤ `MOST`: int32 [M, 2 · k + 1], the bits of the k
        greatest, float32, their ids, and the bits of the row's log-sum-exp, float32. None where no
        kernel knows the logits."""


kernels: dict[str, Kernel] = {}
"""By type of device; the runtime, which has the kernels, puts them here."""


def likeliest(
    logits: Tensor, k: int, noise: Tensor | None = None, scale: float = 0.0
) -> tuple[list[list[int]], list[list[float]]]:
    """The `k` likeliest tokens after each row of `logits[M, V]` + scale · noise, likeliest first, and
    their log-probabilities: [M][k] each. Noise is [≥ V] for all rows, or [M, ≥ V]."""
    import torch

    found = _find(logits, k, noise, scale)
    if found is None:
        if noise is not None:
            logits = logits.float().add(noise[..., : logits.shape[1]], alpha=scale)
        logprobs, tokens = fetch(*logits.float().log_softmax(-1).topk(k))
    else:
        found = found.cpu()
        tokens, floats = found[:, k : 2 * k], found.view(torch.float32)
        logprobs = floats[:, :k] - floats[:, 2 * k :]
    return tokens.tolist(), logprobs.tolist()


def likeliest_and_margins(logits: Tensor) -> tuple[list[int], list[float]]:
    """The likeliest token after each row of `logits[M, V]`, of equals that with the lowest id, and its
    logit less the second one; no margins where they would cost a second pass over the logits."""
    import torch

    found = _find(logits, 2)
    if found is None:
        return logits.max(-1).indices.tolist(), []
    found = found.cpu()
    values = found.view(torch.float32)
    return found[:, 2].tolist(), (values[:, 0] - values[:, 1]).tolist()


def _find(
    logits: Tensor, k: int, noise: Tensor | None = None, scale: float = 0.0
) -> Tensor | None:
    """What a kernel finds; None where there is no kernel for these logits."""
    kernel = kernels.get(logits.device.type) if k <= MOST else None
    return None if kernel is None else kernel(logits, k, noise, scale)
