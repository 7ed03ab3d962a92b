"""A borrowed model comes back as it was."""

import copy

import pytest

from toolkit.conformance.models import tiny
from toolkit.runtime.compute.attention import NAME
from toolkit.runtime.models.borrow import borrow


@pytest.fixture
def model():
    model = copy.deepcopy(tiny("llama", 0))
    model.set_attn_implementation("eager")
    return model.train()


def state(model):
    return model.config._attn_implementation, [part.training for part in model.modules()]


def test_it_is_ours_while_it_is_borrowed(model):
    with borrow(model):
        assert model.config._attn_implementation == NAME
        assert not any(part.training for part in model.modules())


def test_it_comes_back_as_it_was(model):
    model.lm_head.eval()
    before = state(model)
    with borrow(model):
        pass
    assert state(model) == before


def test_it_comes_back_after_an_error(model):
    before = state(model)
    with pytest.raises(RuntimeError, match="on a bad day"), borrow(model):
        raise RuntimeError("on a bad day")
    assert state(model) == before


def test_two_at_once(model):
    other = copy.deepcopy(tiny("gpt2", 0))
    before = state(model), state(other)
    with borrow(model, other):
        assert other.config._attn_implementation == NAME
    assert (state(model), state(other)) == before
