"""What the core asks of logits on the CPU, by the C kernels: likeliest tokens, noise and draws."""

from __future__ import annotations

from torch import Tensor

from toolkit.runtime.kernels import native


def top_tokens(
    logits: Tensor, k: int, noise: Tensor | None = None, scale: float = 0.0
) -> memoryview | None:
    """As `toolkit.likeliest.Kernel`."""
    library = native.for_logits(logits, noise)
    return None if library is None else library.top(logits, k, noise, scale)


class CpuNoise:
    """As `toolkit.randomness.NoiseKernels`."""

    def noise(self, keys: list[int], count: int) -> Tensor | None:
        library = native.library()
        return None if library is None else library.noise(keys, count)

    def draw(self, logits: Tensor, noise: Tensor, scale: float) -> int | None:
        library = native.for_logits(logits, noise)
        return None if library is None else library.draw(logits, noise, scale)
