"""The likeliest tokens by logits, on the host: one kernel where the runtime has one, and one copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from toolkit.transfer import fetch

if TYPE_CHECKING:
    from torch import Tensor

Kernel = Callable[["Tensor", int], tuple["Tensor", "Tensor", "Tensor"]]
"""Logits [M, V] and k ≤ `MOST` → the k greatest [M, k], their ids [M, k], log-sum-exps [M]."""

MOST = 32  # candidates that a kernel is asked for
kernels: dict[str, Kernel] = {}
"""By type of device; the runtime, which has the kernels, puts them here."""


def likeliest(logits: Tensor, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """The `k` likeliest tokens after each row of `logits[M, V]`, likeliest first, and their
    log-probabilities: [M][k] each."""
    kernel = kernels.get(logits.device.type) if k <= MOST else None
    if kernel is None:
        logprobs, tokens = logits.float().log_softmax(-1).topk(k)
    else:
        values, tokens, sums = kernel(logits, k)
        logprobs = values - sums[:, None]
    logprobs, tokens = fetch(logprobs, tokens)
    return tokens.tolist(), logprobs.tolist()


def likeliest_and_margins(logits: Tensor) -> tuple[list[int], list[float]]:
    """The likeliest token after each row of `logits[M, V]`, of equals that with the lowest id, and its
    logit less the second one; no margins where they would cost a second pass over the logits."""
    kernel = kernels.get(logits.device.type)
    if kernel is None:
        return logits.max(-1).indices.tolist(), []  # on CPU faster than argmax
    values, tokens = fetch(*kernel(logits, 2)[:2])
    return tokens[:, 0].tolist(), (values[:, 0] - values[:, 1]).tolist()
