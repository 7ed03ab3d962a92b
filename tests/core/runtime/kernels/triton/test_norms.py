import pytest
import torch

from toolkit.runtime.kernels.triton.norms import add_and_norm, add_and_norm_plain

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize(("branches", "norms"), [(0, 1), (1, 1), (2, 2)])
def test_it_equals_the_plain_form(device, dtype, rms, branches, norms):
    rng = torch.Generator().manual_seed(0)
    x, *others = torch.randn(1 + branches, 3, 80, generator=rng).to(device, dtype)
    weights = torch.randn(2, 2, 80, generator=rng).to(device, dtype)
    affines = tuple((weight, None if rms else bias) for weight, bias in weights)[:norms]
    got = add_and_norm(x, tuple(others), affines, 1e-5, rms)
    expected = add_and_norm_plain(x, tuple(others), affines, 1e-5, rms)
    assert torch.equal(got[0], expected[0])  # added and rounded at the same places
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_norm_without_weights_and_one_with_wider_weights(device):
    x = torch.randn(2, 64, device=device)
    _, got = add_and_norm(x, (), ((None, None),), 1e-5, True)
    torch.testing.assert_close(got, add_and_norm_plain(x, (), ((None, None),), 1e-5, True)[1])
    half, weight = x.half(), torch.randn(64, device=device)
    _, got = add_and_norm(half, (), ((weight, None),), 1e-5, True)
    torch.testing.assert_close(got, add_and_norm_plain(half, (), ((weight, None),), 1e-5, True)[1])


def test_a_row_has_the_same_bits_alone(device):
    x = torch.randn(5, 96, device=device)
    affines = ((torch.randn(96, device=device), None),)
    _, got = add_and_norm(x, (x,), affines, 1e-5, True)
    _, alone = add_and_norm(x[3:4], (x[3:4],), affines, 1e-5, True)
    assert torch.equal(got[3:4], alone)
