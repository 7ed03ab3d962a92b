"""Random numbers that follow from a text: generators, and the Gumbel noise that draws AR's tokens."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from toolkit.transfer import send

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 8  # positions whose noise is made at once: one call takes less time than many


class NoiseKernels(Protocol):
    """Faster forms of what this file computes with PyTorch, for one type of device."""

    def noise(self, keys: list[int], count: int) -> Tensor | None:
        """As `gumbel_noise`, within rounding; None where there is no such kernel."""

    def draw(self, logits: Tensor, noise: Tensor, scale: float) -> int | None:
        """As `draw_noisy`; None where no kernel knows these logits."""


kernels: dict[str, NoiseKernels] = {}
"""By type of device; the runtime, which has the kernels, puts them here."""


def make_generator(key: str) -> torch.Generator:
    """A generator that is seeded by a text: texts that differ give independent random numbers."""
    import torch

    return torch.Generator().manual_seed(_digest(key))


def noise_of(seed: int, position: int, vocabulary: int, device: torch.device) -> Tensor:
    """The Gumbel noise [V], float32, with which AR draws the token at a position. Do not change it in
    place: it is kept, because a drafter and a verifier ask for the same."""
    block, row = divmod(position, BLOCK)
    return _noise_of_block(seed, block, vocabulary, device)[row]


@lru_cache(maxsize=4)
def _noise_of_block(
    seed: int, block: int, vocabulary: int, device: torch.device
) -> tuple[Tensor, ...]:
    positions = range(block * BLOCK, (block + 1) * BLOCK)
    keys = [_digest(f"token {seed} {position}") for position in positions]
    kernel = kernels.get(device.type)
    noise = kernel.noise(keys, vocabulary) if kernel is not None else None
    return (gumbel_noise(keys, vocabulary, device) if noise is None else noise).unbind()


def gumbel_noise(keys: list[int], count: int, device: torch.device) -> Tensor:
    """Gumbel noise [keys, `count`], float32: −log(−log u), where u has 52 of the bits that SplitMix64
    (Steele, Lea and Flood 2014) makes of the counter key + i.

    A log-law plus such noise has its argmax at each token with the token's probability.
    """
    import torch

    (first,) = send(device, torch.tensor([_signed(key) for key in keys]))
    bits = (first[:, None] + torch.arange(count, device=device)) * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    bits = bits ^ _shift(bits, 31)
    uniforms = (_shift(bits, 12) | 0x3FF0000000000000).view(torch.double) - 1 + 2.0**-53
    return uniforms.log_().neg_().log_().neg_().float()


def draw_noisy(logits: Tensor, noise: Tensor, scale: float) -> int:
    """The first token with the greatest `logits[V]` + scale · `noise[V]`, summed in float64."""
    kernel = kernels.get(logits.device.type)
    token = kernel.draw(logits, noise, scale) if kernel is not None else None
    return int(add_noise(logits, noise, scale).max(-1).indices) if token is None else token


def add_noise(logits: Tensor, noise: Tensor, scale: float) -> Tensor:
    """`logits[V]` + scale · `noise[V]`: float64."""
    return logits.double().add(noise, alpha=scale)


def _digest(key: str) -> int:
    """64 bits of a text's hash."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())


def _signed(word: int) -> int:
    """The int64 that has the bits of a 64-bit word."""
    return word - (word >> 63 << 64)


def _shift(words: Tensor, count: int) -> Tensor:
    """Words [·], int64, shifted right by `count` bits; zeros come in."""
    return (words >> count) & ((1 << (64 - count)) - 1)
