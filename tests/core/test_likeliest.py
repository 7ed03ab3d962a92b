"""The likeliest tokens: the same numbers, however many rows are asked about at once."""

import pytest
import torch

from toolkit.likeliest import SMALL, likeliest


@pytest.mark.parametrize("rows", [1, 2, 9, SMALL // 600 + 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_log_probabilities_are_those_of_pytorch_bit_by_bit(rows, dtype):
    logits = 3 * torch.randn(rows, 600, generator=torch.Generator().manual_seed(1))
    values, ids = logits.to(dtype).float().log_softmax(-1).topk(4)
    assert likeliest(logits.to(dtype), 4) == (ids.tolist(), values.tolist())
