import pytest
import torch

from toolkit.runtime.kernels.triton.rotary import rotate_and_store, rotate_and_store_plain

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "rotated", "interleaved"),
    [(4, 2, 64, 64, False), (3, 3, 80, 20, True), (2, 1, 16, 0, False)],
)
def test_it_equals_the_plain_form(device, dtype, heads, kv_heads, width, rotated, interleaved):
    rng = torch.Generator().manual_seed(0)
    product = torch.randn(3, (heads + 2 * kv_heads) * width, generator=rng).to(device, dtype)
    if interleaved:
        parts = product.view(3, heads, 3, width).unbind(2)
    else:
        parts = product.view(3, -1, width).split([heads, kv_heads, kv_heads], 1)
    cos, sin = torch.randn(2, 50, rotated, generator=rng).to(device, dtype)
    positions = torch.tensor([49, 7, 7], dtype=torch.int32, device=device)
    slots = torch.tensor([11, 3, 8], dtype=torch.int32, device=device)
    got = torch.zeros(2, kv_heads, 12, width, dtype=dtype, device=device)
    expected = torch.zeros_like(got)
    query = rotate_and_store(*parts, cos, sin, positions, slots, *got)
    plain = rotate_and_store_plain(*parts, cos, sin, positions, slots, *expected)
    close = {"rtol": 0, "atol": 16 * torch.finfo(dtype).eps}  # four units of the last place below 8
    torch.testing.assert_close(query, plain, **close)
    torch.testing.assert_close(got, expected, **close)
    assert got[:, :, [11, 3, 8]].abs().sum(-1).all()
    assert not got[:, :, [0, 1, 2, 4, 5, 6, 7, 9, 10]].any()
