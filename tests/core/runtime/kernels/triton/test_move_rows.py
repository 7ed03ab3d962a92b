import pytest
import torch

from toolkit.runtime.kernels.triton.move_rows import move_path, move_rows, move_rows_plain

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("sources", [[6, 7, 10, 11, 13], [5]])
def test_rows_move_down_in_all_layers(device, dtype, sources):
    cache = torch.randn(4, 2, 16, 80, device=device).to(dtype)
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


@pytest.mark.parametrize("count", [1, 5, 16, 17, 40])
def test_a_path_moves_whose_numbers_the_host_knows(device, dtype, count):
    """In one launch for each sixteen rows; those that come later are not overwritten before."""
    cache = torch.randn(4, 2, 64, 80, device=device).to(dtype)
    path = torch.randperm(56, generator=torch.Generator().manual_seed(count))[:count].sort().values
    expected = cache.clone()
    expected[:, :, 7 : 7 + count] = cache[:, :, 7 + path]
    move_path(cache, 7, path.tolist())
    assert torch.equal(cache, expected)


def test_a_path_of_far_rows_moves(device):
    """Whose numbers take all bits that there are for them."""
    cache = torch.randn(1, 1, 65540, 16, device=device)
    expected, path = cache.clone(), [1, 255, 256, 32768, 65535]
    expected[:, :, 1:6] = cache[:, :, [1 + row for row in path]]
    move_path(cache, 1, path)
    assert torch.equal(cache, expected)


def test_a_path_at_the_end_of_the_buffer_moves(device):
    cache = torch.randn(1, 1, 8, 16, device=device)
    expected = cache.clone()
    expected[:, :, 6] = cache[:, :, 7]
    move_path(cache, 6, [1])
    assert torch.equal(cache, expected)
