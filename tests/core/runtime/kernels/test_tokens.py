"""The C kernels of tokens, for each instruction set: noise, draws, and the likeliest tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.randomness import gumbel_noise
from toolkit.runtime.kernels import build, native
from toolkit.runtime.kernels.triton.top_tokens import packed_top_tokens, unpack

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
ISAS = build.isas()
VALUES = st.integers(-9, 9).map(float) | st.just(-math.inf)


def library(isa):
    with native.using(isa):
        return native.library()


def top(isa, logits, k, noise=None):
    """The words of the likeliest tokens [M, 2 · k + 1]."""
    found = library(isa).top(logits, k, noise, 0.5)
    return torch.frombuffer(found, dtype=torch.int32).view(len(logits), -1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [1, 3, 8, 1000])
def test_noise_is_that_of_pytorch(isa, count):
    keys = [2**64 - 2, 5, 2**63 + 17]
    expected = gumbel_noise(keys, count, torch.device("cpu"))
    assert torch.allclose(library(isa).noise(keys, count), expected, rtol=1e-6, atol=1e-6)


@st.composite
def questions(draw):
    """Logits with many ties that are part of a wider tensor, noise likewise or none, and k."""
    rows, count = draw(st.integers(1, 3)), draw(st.integers(1, 70))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))

    numbers = draw(st.sampled_from([VALUES, VALUES | st.just(math.nan)]))

    def table(width):
        values = draw(st.lists(numbers, min_size=rows * width, max_size=rows * width))
        return torch.tensor(values).view(rows, width)

    noise = draw(st.sampled_from(["none", "shared", "by row"]))
    given_noise = None if noise == "none" else table(count + 2).nan_to_num(neginf=0.0)
    if noise == "shared":
        given_noise = given_noise[0]
    k = min(draw(st.integers(1, 32)), count)
    return table(count + 3).to(dtype)[:, 1 : count + 1], given_noise, k


@pytest.mark.parametrize("isa", ISAS)
@given(question=questions())
def test_the_likeliest_tokens_are_those_of_pytorch(isa, question):
    """Of equals the first; each token once, also where the others cannot be drawn; NaN above all."""
    logits, noise, k = question
    count = logits.shape[1]
    noisy = logits.float() + (0 if noise is None else 0.5 * noise[..., :count])
    values, ids, sums = unpack(top(isa, logits, k, noise))
    expected = unpack(packed_top_tokens(noisy, k))
    assert torch.allclose(values, expected[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ids, expected[1])
    some = values[:, 0] > -math.inf  # else the row is no law
    assert torch.allclose(sums[some], expected[2][some], rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@given(question=questions())
def test_the_drawn_token_is_the_first_of_the_greatest(isa, question):
    logits, noise, _ = question
    noise = torch.zeros(1, logits.shape[1]) if noise is None else noise.view(-1, noise.shape[-1])
    noisy = logits[0].double() + 0.5 * noise[0, : logits.shape[1]].double()
    drawn = library(isa).draw(logits[0], noise[0], 0.5)
    assert drawn == noisy.max(-1).indices


@pytest.mark.parametrize("isa", ISAS)
def test_rows_do_not_depend_on_threads(isa):
    logits = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    several = top(isa, logits, 7)
    for row in range(0, 40, 9):
        assert torch.equal(several[row], top(isa, logits[row : row + 1], 7)[0])
