"""Noise: the bits of SplitMix64, Gumbel's distribution, and a key of its own for each position."""

import math

import pytest
import torch

from toolkit import randomness
from toolkit.randomness import BLOCK, draw_noisy, gumbel_noise, noise_of
from toolkit.runtime import session  # noqa: F401  puts the kernels where they are looked for
from toolkit.runtime.kernels import native

CPU = torch.device("cpu")
KEYS = [0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF]
WORD = 2**64


def splitmix(counter):
    """The published algorithm, in Python's numbers."""
    z = counter * 0x9E3779B97F4A7C15 % WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def test_the_reference_is_the_published_generator():
    assert [splitmix(i) for i in (1, 2, 3)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 7, 40])
def test_noise_is_made_of_its_bits(count):
    expected = [
        [-math.log(-math.log((splitmix(key + i) >> 12) * 2**-52 + 2**-53)) for i in range(count)]
        for key in KEYS
    ]
    noise = gumbel_noise(KEYS, count, CPU)
    assert noise.dtype == torch.float32
    assert noise.tolist() == [pytest.approx(row, rel=1e-6, abs=1e-6) for row in expected]


def distance(noise):
    """The greatest distance of noise's distribution from Gumbel's, times √n: above 2.9 for one sample
    of the right distribution in 10^7 (Kolmogorov 1933)."""
    ordered = noise.flatten().double().sort().values
    share = torch.arange(1, len(ordered) + 1) / len(ordered)
    return (ordered.neg().exp().neg().exp() - share).abs().max() * math.sqrt(len(ordered))


def test_noise_has_gumbel_s_distribution():
    noise = gumbel_noise([randomness._digest(f"test {i}") for i in range(8)], 50_000, CPU)
    assert distance(noise) < 2.9
    assert distance(1.03 * noise) > 2.9  # enough noise to tell them apart


def test_each_position_has_its_own_noise_however_it_is_asked_for():
    rows = [noise_of(3, position, 50, CPU) for position in range(3 * BLOCK)]
    assert len({tuple(row.tolist()) for row in rows}) == 3 * BLOCK
    assert not torch.equal(noise_of(4, 0, 50, CPU), rows[0])
    for position in (5, 20, 0):
        assert torch.equal(noise_of(3, position, 50, CPU), rows[position])
        assert torch.equal(noise_of(3, position, 30, CPU), rows[position][:30])  # a smaller V


@pytest.mark.parametrize("isa", [None, "best"])
def test_noise_is_the_same_with_a_kernel_and_without(isa):
    randomness._noise_of_block.cache_clear()
    with native.using(isa):
        noise = noise_of(7, 11, 1001, CPU)
    randomness._noise_of_block.cache_clear()
    plain = gumbel_noise([randomness._digest("token 7 11")], 1001, CPU)[0]
    assert torch.allclose(noise, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("isa", [None, "best"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_draw_is_the_argmax_in_double_precision(isa, dtype):
    generator = torch.Generator().manual_seed(5)
    with native.using(isa):
        for count in (1, 2, 15, 16, 17, 100):
            logits = (3 * torch.randn(count, generator=generator)).to(dtype)
            noise = torch.randn(count, generator=generator)
            expected = (logits.double() + 0.6 * noise.double()).argmax()
            assert draw_noisy(logits, noise, 0.6) == expected
        equal = torch.ones(2, dtype=dtype)
        assert draw_noisy(equal, torch.zeros(2), 1.0) == 0
        little = torch.tensor([0.0, 2**-13])  # times 2^-20 it is lost in float32 beside 1
        assert draw_noisy(equal, little, 2**-20) == 1
