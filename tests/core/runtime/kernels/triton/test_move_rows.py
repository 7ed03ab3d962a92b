import pytest
import torch

from toolkit.runtime.kernels.triton.move_rows import move_rows, move_rows_plain

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("sources", [[6, 7, 10, 11, 13], [5]])
def test_rows_move_down_in_all_layers(device, sources):
    cache = torch.randn(4, 2, 16, 80, device=device)
    expected = cache.clone()
    expected[:, :, 5 : 5 + len(sources)] = cache[:, :, sources]
    plain = cache.clone()
    table = torch.tensor(sources, dtype=torch.int32, device=device)
    length = torch.tensor([5], dtype=torch.int32, device=device)
    move_rows(cache, table, length)
    move_rows_plain(plain, table, length)
    assert torch.equal(cache, expected)
    assert torch.equal(plain, expected)


def test_padding_beyond_the_buffer_is_left_alone(device):
    cache = torch.randn(1, 1, 8, 16, device=device)
    expected = cache.clone()
    table = torch.tensor([6, 7, 8, 9], dtype=torch.int32, device=device)
    move_rows(cache, table, torch.tensor([6], dtype=torch.int32, device=device))
    assert torch.equal(cache, expected)
