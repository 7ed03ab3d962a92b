"""No policy: everything is visible."""

import torch


def test_everything_is_visible(make):
    queries, keys = torch.tensor([[3], [9]]), torch.arange(10)[None]
    visible = make("kv", "full").visible(queries, keys)
    assert visible.dtype == torch.bool
    assert visible.tolist() == [[True] * 10] * 2


def test_it_has_no_options(registry):
    assert str(registry.resolve("kv", "full")) == "full"
