"""What the kit counts as the same numbers."""

import pytest
import torch

from toolkit.conformance.comparison import Broken, require_close


@pytest.mark.parametrize(
    ("dtype", "same", "other"),
    [(torch.float64, 1e-12, 1e-6), (torch.float32, 1.4e-6, 1e-4)],
)
def test_the_rounding_of_a_dtype_is_no_difference(dtype, same, other):
    values = torch.tensor([0.5, -torch.inf], dtype=dtype)
    require_close(values + same, values, "here")
    with pytest.raises(Broken, match="off by 0.0001: here" if other == 1e-4 else "off by 1e-06: here"):
        require_close(values + other, values, "here")
    with pytest.raises(Broken):
        require_close(values + same, values, "bit by bit", tolerance=0.0)
    with pytest.raises(Broken):
        require_close(values, values.clamp(min=0), "where one is finite")
