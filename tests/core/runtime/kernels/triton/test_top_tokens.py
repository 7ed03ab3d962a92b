import pytest
import torch

from toolkit.runtime.kernels.triton.top_tokens import top_tokens, top_tokens_plain

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize(("vocabulary", "k"), [(5000, 5), (20, 16), (4097, 1)])
def test_it_equals_the_plain_form(device, dtype, vocabulary, k):
    rng = torch.Generator().manual_seed(vocabulary)
    logits = (10 * torch.randn(3, vocabulary, generator=rng)).to(device, dtype)
    values, tokens, normaliser = top_tokens(logits, k)
    expected = top_tokens_plain(logits, k)
    assert torch.equal(values, expected[0])
    assert torch.equal(tokens, expected[1])
    torch.testing.assert_close(normaliser, expected[2])


def test_equal_logits_come_in_the_order_of_their_ids(device):
    logits = torch.zeros(1, 9000, device=device)
    logits[0, [8999, 4500, 17]] = 1.0
    values, tokens, _ = top_tokens(logits, 4)
    assert tokens.tolist() == [[17, 4500, 8999, 0]]
    assert values.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_tokens_that_cannot_be_come_last(device):
    logits = torch.full((1, 5000), float("-inf"), device=device)
    logits[0, 4999] = 2.0
    values, tokens, normaliser = top_tokens(logits, 3)
    assert tokens.tolist() == [[4999, 0, 1]]
    assert values.tolist() == [[2.0, float("-inf"), float("-inf")]]
    assert normaliser.tolist() == [2.0]


def test_a_view_of_a_wider_product(device):
    logits = torch.randn(2, 300, device=device)[:, :250]
    for got, expected in zip(top_tokens(logits, 3), top_tokens_plain(logits, 3), strict=True):
        torch.testing.assert_close(got, expected)


def test_float64_is_not_rounded_to_float32(device):
    logits = torch.tensor([[1.0, 1.0 + 1e-12, 0.5]], dtype=torch.float64, device=device)
    assert top_tokens(logits, 2)[1].tolist() == [[1, 0]]


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # inf - inf, as the interpreter has it
@pytest.mark.parametrize("nan", [float("nan"), -float("nan")])
def test_nan_is_above_all(device, nan):
    """As in PyTorch, in one block of logits or several, with infinities, zeros of both signs."""
    inf, rng = float("inf"), torch.Generator().manual_seed(3)
    logits = torch.randn(4, 9000, generator=rng)
    logits[0] = nan
    logits[1, [8000, 4100, 2]] = torch.tensor([nan, nan, inf])
    logits[2, [8000, 5]] = torch.tensor([-0.0, 0.0])
    logits[2, :5], logits[2, 6:8000], logits[2, 8001:] = -1.0, -inf, nan
    logits = logits.to(device)
    values, tokens, normaliser = top_tokens(logits, 5)
    expected = top_tokens_plain(logits, 5)
    assert torch.equal(tokens, expected[1])
    torch.testing.assert_close(values, expected[0], equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(normaliser, expected[2], equal_nan=True)
    assert tokens[:, 0].tolist() == logits.max(-1).indices.tolist()


def test_zeros_of_both_signs_are_equal(device):
    logits = torch.full((1, 9), -1.0, device=device)
    logits[0, [2, 5, 7]] = torch.tensor([-0.0, 0.0, -0.0], device=device)
    assert top_tokens(logits, 3)[1].tolist() == [[2, 5, 7]]
