"""The likeliest tokens by logits, on the host: one kernel where the runtime has one, and one copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from toolkit.transfer import fetch

if TYPE_CHECKING:
    from torch import Tensor

Kernel = Callable[["Tensor", int], "Tensor"]
"""Logits [M, V] and k ≤ `MOST` → int32 [M, 2 · k + 1]: the bits of the k greatest, float32, their ids,
and the bits of the row's log-sum-exp, float32."""

SMALL = 2**16  # logits, of which threads take longer to wake than to be of use
MOST = 32  # candidates that a kernel is asked for
kernels: dict[str, Kernel] = {}
"""By type of device; the runtime, which has the kernels, puts them here."""


def likeliest(logits: Tensor, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """The `k` likeliest tokens after each row of `logits[M, V]`, likeliest first, and their
    log-probabilities: [M][k] each."""
    kernel = kernels.get(logits.device.type) if k <= MOST else None
    if kernel is None:
        logprobs, tokens = fetch(*_log_softmax(logits.float()).topk(k))
    else:
        import torch

        found = kernel(logits, k).cpu()
        tokens, floats = found[:, k : 2 * k], found.view(torch.float32)
        logprobs = floats[:, :k] - floats[:, 2 * k :]
    return tokens.tolist(), logprobs.tolist()


def likeliest_and_margins(logits: Tensor) -> tuple[list[int], list[float]]:
    """The likeliest token after each row of `logits[M, V]`, of equals that with the lowest id, and its
    logit less the second one; no margins where they would cost a second pass over the logits."""
    kernel = kernels.get(logits.device.type)
    if kernel is None:
        return logits.max(-1).indices.tolist(), []  # on CPU faster than argmax
    import torch

    found = kernel(logits, 2).cpu()
    values = found.view(torch.float32)
    return found[:, 2].tolist(), (values[:, 0] - values[:, 1]).tolist()


def _log_softmax(logits: Tensor) -> Tensor:
    """`logits[M, V].log_softmax(-1)`, on the CPU row by row where they are few: all at once, PyTorch
    wakes its threads."""
    if logits.device.type != "cpu" or len(logits) < 2 or logits.numel() > SMALL:
        return logits.log_softmax(-1)
    import torch

    return torch.cat([row.log_softmax(-1) for row in logits.split(1)])
