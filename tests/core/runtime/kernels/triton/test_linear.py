import pytest
import torch
import torch.nn.functional as F

from toolkit.runtime.kernels.triton.activations import activate
from toolkit.runtime.kernels.triton.linear import SkinnyLinear, split_inputs

pytestmark = pytest.mark.cuda


def draw(device, dtype, rows, width, outputs):
    rng = torch.Generator().manual_seed(width)
    x = torch.randn(rows, width, generator=rng).to(device, dtype)
    weight = torch.randn(outputs, width, generator=rng).to(device, dtype) / width**0.5
    return x, weight, torch.randn(outputs, generator=rng).to(device, dtype)


@pytest.mark.parametrize(("width", "outputs"), [(600, 100), (256, 64)])
@pytest.mark.parametrize("rows", [1, 17])
@pytest.mark.parametrize("biased", [False, True])
def test_it_equals_the_plain_form(device, dtype, bound, width, outputs, rows, biased):
    x, weight, bias = draw(device, dtype, rows, width, outputs)
    linear = SkinnyLinear.of(weight, bias if biased else None)
    expected = F.linear(x.double(), weight.double(), bias.double() if biased else None)
    for _ in range(2):  # the second launch finds the arrivals of the first
        got = linear(x)
        assert not linear.arrivals.any()
        assert ((got.double() - expected).norm() / expected.norm()) < bound


def test_a_row_has_the_same_bits_in_every_pass(device, dtype):
    x, weight, bias = draw(device, dtype, 64, 600, 70)
    linear = SkinnyLinear.of(weight, bias)
    everything = linear(x)
    for rows in ([5], [9, 5, 63], list(range(63, 30, -1))):
        assert torch.equal(linear(x[rows]), everything[rows])
    half = SkinnyLinear.of(weight[:, :300].contiguous(), bias)(x[:, :300])
    other = SkinnyLinear.of(weight[:, 300:].contiguous(), None)(x[:, 300:])
    assert not torch.equal(half + other, everything)  # the control: another order of the sum


@pytest.mark.parametrize("outputs", [64, 100])
@pytest.mark.parametrize("act", ["gelu", "tanh"])  # of which the kernel knows one
def test_an_activation_gives_what_it_gives_afterwards(device, dtype, act, outputs):
    x, weight, bias = draw(device, dtype, 3, 600, outputs)
    linear = SkinnyLinear.of(weight, bias)
    assert torch.equal(linear(x, act), activate(act, linear(x)))
    assert not torch.equal(linear(x, act), linear(x))


@pytest.mark.parametrize("width", [128, 2560, 10240])
@pytest.mark.parametrize("tiles", [1, 40, 160, 786])
def test_every_input_is_in_one_part(width, tiles):
    splits, blocks = split_inputs(width, tiles, 128)
    assert (splits - 1) * blocks * 128 < width <= splits * blocks * 128


def test_parts_are_equal_unless_they_would_be_few():
    assert split_inputs(10240, 40, 128) == (5, 16)  # of 6 at most
    assert split_inputs(7 * 128, 44, 128) == (4, 2)  # of 6 at most: 1 would be too few
