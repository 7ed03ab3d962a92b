"""The pipeline that `speculative()` makes for a model."""

from types import SimpleNamespace

import pytest
import torch

from toolkit import Sampling, drop_in, speculative


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_drafter_is_loaded_where_the_target_is(monkeypatch, device):
    def pool(device):
        raise LookupError(device)

    monkeypatch.setattr(drop_in, "Pool", pool)
    model = SimpleNamespace(device=torch.device(device), dtype=torch.float32)
    with pytest.raises(LookupError, match=f"^{device}$"):
        speculative("model:some")._pipeline_for(model, Sampling())
