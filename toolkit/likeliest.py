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
    ) -> memoryview | None:
        """Of logits [M, V] + scale · noise and k from 1 to `MOST` and V: the bytes of M · (2 · k + 1)
        numbers on the host, for each row the k greatest, float32, their ids, int32, and its
        log-sum-exp, float32. None where no kernel knows the logits or the noise."""


kernels: dict[str, Kernel] = {}
"""By type of device; the runtime, which has the kernels, puts them here."""


def likeliest(
    logits: Tensor, k: int, noise: Tensor | None = None, scale: float = 0.0
) -> tuple[list[list[int]], list[list[float]]]:
    """The `k` likeliest tokens after each row of `logits[M, V]` + scale · noise, likeliest first, and
    their log-probabilities: [M][k] each. Noise is [≥ V] for all rows, or [M, ≥ V]."""
    found = _find(logits, k, noise, scale)
    if found is None:
        if noise is not None:
            logits = logits.float().add(noise[..., : logits.shape[1]], alpha=scale)
        logprobs, tokens = fetch(*logits.float().log_softmax(-1).topk(k))
        return tokens.tolist(), logprobs.tolist()
    ids, values, sums = found
    return ids, [[value - one for value in row] for row, one in zip(values, sums, strict=True)]


def likeliest_and_margins(logits: Tensor) -> tuple[list[int], list[float]]:
    """The likeliest token after each row of `logits[M, V]`, of equals that with the lowest id, and its
    logit less the second one; no margins where they would cost a second pass over the logits."""
    found = _find(logits, 2)
    if found is None:
        return logits.max(-1).indices.tolist(), []
    ids, values, _ = found
    return [row[0] for row in ids], [first - second for first, second in values]


def margin(logits: Tensor) -> float:
    """The highest of `logits[V]` less the second."""
    found = _find(logits[None], 2)
    first, second = logits.topk(2).values.tolist() if found is None else found[1][0]
    return float(first - second)


def _find(
    logits: Tensor, k: int, noise: Tensor | None = None, scale: float = 0.0
) -> tuple[list[list[int]], list[list[float]], list[float]] | None:
    """Ids [M][k], values [M][k] and log-sum-exps [M] by a kernel; None where there is none for these
    logits."""
    kernel = kernels.get(logits.device.type) if 0 < k <= min(MOST, logits.shape[1]) else None
    packed = None if kernel is None else kernel(logits, k, noise, scale)
    if packed is None:
        return None
    words, starts = packed.cast("i"), range(0, packed.nbytes // 4, 2 * k + 1)
    floats: memoryview[float] = packed.cast("f")
    return (
        [list(words[at + k : at + 2 * k]) for at in starts],
        [list(floats[at : at + k]) for at in starts],
        [floats[at + 2 * k] for at in starts],
    )
