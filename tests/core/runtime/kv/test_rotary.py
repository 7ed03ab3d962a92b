"""Moving rotary keys, against rotation number by number and against the models' own keys."""

import cmath

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st

from toolkit.conformance.models import FAMILIES, tiny
from toolkit.runtime.kv.rotary import HALVES, Rotary, has_rotary, rotation_known

FREQUENCIES = torch.tensor([1.0, 0.1, 0.02], dtype=torch.float64)
ROTARY = Rotary((FREQUENCIES, torch.zeros(0)))


def states(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@given(st.lists(st.integers(-3000, 3000), min_size=1, max_size=4))
def test_pairs_turn_as_complex_numbers(by):
    """Dimension i and i + r/2 are a pair; those beyond r stay."""
    keys = states(len(by), 8)
    moved = ROTARY.rotate(0, keys, torch.tensor(by))
    for key, ours, turns in zip(keys.tolist(), moved.tolist(), by, strict=True):
        for i, frequency in enumerate(FREQUENCIES.tolist()):
            turned = complex(key[i], key[i + 3]) * cmath.exp(1j * turns * frequency)
            assert complex(ours[i], ours[i + 3]) == pytest.approx(turned)
        assert ours[6:] == key[6:]


@given(st.integers(-500, 500), st.integers(-500, 500))
def test_moves_add_up(one, other):
    keys = states(2, 5, 6)
    step = ROTARY.rotate(0, keys, torch.full((5,), one))
    torch.testing.assert_close(
        ROTARY.rotate(0, step, torch.full((5,), other)),
        ROTARY.rotate(0, keys, torch.full((5,), one + other)),
        rtol=0, atol=1e-11,
    )


def test_scores_depend_on_distance_alone():
    query, key, by = states(6), states(2, 6)[1], torch.tensor(40)
    moved = ROTARY.rotate(0, query, by) @ ROTARY.rotate(0, key, by)
    assert float(moved) == pytest.approx(float(query @ key))
    assert float(ROTARY.rotate(0, query, by) @ key) != pytest.approx(float(query @ key))


def test_each_layer_turns_in_its_own_way_or_not_at_all():
    keys = states(4, 6)
    assert ROTARY.rotate(1, keys, torch.arange(4)) is keys


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_turned_in_float32(dtype):
    keys = states(3, 6).to(dtype)
    by = torch.tensor([1, 900, 4000])
    moved = ROTARY.rotate(0, keys, by)
    assert moved.dtype == dtype
    exact = ROTARY.rotate(0, keys.double(), by)
    torch.testing.assert_close(moved.double(), exact, rtol=0, atol=4 * torch.finfo(dtype).eps + 1e-3)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_frequencies_of_a_loaded_model(family):
    module = tiny(family)
    rotary = Rotary.of(module, module.config)
    assert len(rotary.frequencies) == module.config.num_hidden_layers
    sizes = {len(frequencies) for frequencies in rotary.frequencies}
    assert sizes == ({0} if family in ("gpt2", "opt") else {rotated(module.config) // 2})
    if family == "gemma3":  # sliding layers turn faster
        assert not torch.equal(*rotary.frequencies)


def rotated(config):
    """Dimensions of a head that rotate: all of them, or a part."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    return int(width * rope.get("partial_rotary_factor", 1.0))


def test_models_without_rotary():
    assert not has_rotary(hf.GPT2Config())
    assert rotation_known(hf.GPT2Config())
    assert has_rotary(hf.LlamaConfig())


def test_models_that_rotate_in_another_way():
    config = hf.CohereConfig()
    assert "cohere" not in HALVES
    assert has_rotary(config)
    assert not rotation_known(config)
    assert all(len(f) == 0 for f in Rotary.of(torch.nn.Identity(), config).frequencies)
