"""The likeliest tokens and their log-probabilities, with a kernel and without."""

import pytest
import torch

from toolkit.likeliest import MOST, kernels, likeliest, likeliest_and_margins, margin
from toolkit.runtime import session  # noqa: F401  puts the kernels where they are looked for
from toolkit.runtime.kernels import native

ROWS = 3 * torch.randn(9, 600, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(9, 700, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("isa", [None, "best"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [None, NOISE[0], NOISE], ids=["none", "shared", "by row"])
@pytest.mark.parametrize("k", [1, 4, MOST + 1])
def test_they_are_those_of_pytorch(isa, dtype, noise, k):
    logits = ROWS.to(dtype)
    noisy = logits.float() if noise is None else logits.float() + 0.7 * noise[..., :600]
    values, ids = noisy.log_softmax(-1).topk(k)
    with native.using(isa):
        tokens, logprobs = likeliest(logits, k, noise, 0.7)
    assert logprobs == [pytest.approx(row, abs=1e-4) for row in values.tolist()]
    if dtype is torch.float32:  # without equal logits
        assert tokens == ids.tolist()


@pytest.mark.parametrize("isa", [None, "best"])
def test_of_equal_logits_the_first_token_is_the_likeliest(isa):
    logits = torch.tensor([[1.0, 4.0, 2.5, 4.0], [3.0, 3.0, 0.0, -1.0]])
    with native.using(isa):
        tokens, margins = likeliest_and_margins(logits)
        assert [margin(row) for row in logits] == [0.0, 0.0]
        assert margin(logits[1, 1:]) == 3.0
    assert tokens == [1, 0]
    assert margins in ([], [0.0, 0.0])


def test_a_kernel_is_asked_for_one_token_at_least_and_no_more_than_there_are(monkeypatch):
    def kernel(logits, k, noise=None, scale=0.0):
        assert 0 < k <= min(MOST, logits.shape[1])

    monkeypatch.setitem(kernels, "cpu", kernel)
    assert likeliest(ROWS, 0) == ([[]] * 9, [[]] * 9)
    assert likeliest_and_margins(ROWS[:, :1]) == ([0] * 9, [])
    assert len(likeliest(ROWS, MOST + 1)[0][0]) == MOST + 1


@pytest.mark.parametrize("isa", [None, "best"])
def test_noise_is_not_read_beyond_its_end(isa):
    with native.using(isa):
        for noise in (NOISE[0, :599], NOISE[:, :599], NOISE[:2]):
            with pytest.raises(RuntimeError, match="must match"):
                likeliest(ROWS, 4, noise, 0.7)
        for_all = [likeliest(ROWS, 4, noise, 0.7) for noise in (NOISE[:1], NOISE[0])]
        assert for_all[0][0] == for_all[1][0]
        doubles = likeliest(ROWS, 4, NOISE.double(), 0.7)
        assert doubles[0] == likeliest(ROWS, 4, NOISE, 0.7)[0]
