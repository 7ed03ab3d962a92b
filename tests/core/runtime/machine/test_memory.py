"""Memory in large pages holds what it should."""

import pytest
import torch

from toolkit.runtime.machine.memory import PAGE, in_large_pages


@pytest.mark.parametrize("count", [0, 1, PAGE // 4 - 1, PAGE, 3 * PAGE])
def test_a_copy_in_large_pages_is_a_copy(count):
    tensor = torch.arange(2 * count, dtype=torch.int32).view(-1, 2).t()
    copy = in_large_pages(tensor)
    assert torch.equal(copy, tensor)
    assert copy.is_contiguous()
    assert copy.data_ptr() != tensor.data_ptr() or not count
