"""An enlarged model has other sizes and computes the same function."""

import copy
from unittest import mock

import enlarge as module
import pytest
import torch
from click.testing import CliRunner
from enlarge import enlarge
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from toolkit import Pipeline, Pool, ToolkitError
from toolkit.conformance.models import tiny

EXACT = {"rtol": 0, "atol": 1e-9}
TEXT = torch.tensor([[5, 60, 7, 33, 81, 2, 40, 40, 19, 77, 23, 1]])
random_rotation = module.random_rotation
each_family = pytest.mark.parametrize("family", sorted(module.ARCHITECTURES))


@pytest.fixture(autouse=True)
def _double_norms(monkeypatch):
    """RMS norms in float64 too: transformers computes them in float32 whatever the model's dtype."""

    def forward(self, x):
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    for norm in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


def small(family, tied=False):
    """A tiny model whose norms and biases say something."""
    model = copy.deepcopy(tiny(family))
    rng = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=rng, dtype=torch.double)
    if tied:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    model.set_attn_implementation("sdpa")
    return model


@torch.no_grad()
def logits(model, text=TEXT):
    return model(input_ids=text, use_cache=False).logits


def greedy(model):
    return model.generate(TEXT, max_new_tokens=24, do_sample=False, pad_token_id=0).tolist()


@each_family
@settings(max_examples=8)
@given(
    wider=st.integers(1, 4),
    layers=st.integers(2, 5),
    neurons=st.none() | st.integers(48, 131),
    seed=st.integers(0, 99),
    tied=st.booleans(),
)
def test_logits_stay(family, wider, layers, neurons, seed, tied):
    model = small(family, tied)
    large = enlarge(model, width=32 + 8 * wider, layers=layers, neurons=neurons, seed=seed)
    assert large.config.hidden_size == 32 + 8 * wider
    assert large.config.num_hidden_layers == layers
    torch.testing.assert_close(logits(large), logits(model), **EXACT)


def test_added_tokens_are_never_likely():
    model = small("gpt_neox")
    large, known = enlarge(model, width=64, vocabulary=150), model.config.vocab_size
    torch.testing.assert_close(logits(large)[..., :known], logits(model), **EXACT)
    torch.testing.assert_close(
        logits(large)[..., known:], torch.full((1, 12, 150 - known), -30.0).double(), **EXACT
    )
    with pytest.raises(ToolkitError, match="norms have no bias"):
        enlarge(small("llama"), width=64, vocabulary=150)
    with pytest.raises(ToolkitError, match="vocabulary must be at least"):
        enlarge(model, width=64, vocabulary=known - 1)


@each_family
def test_greedy_tokens_stay(family):
    model = small(family)
    assert greedy(enlarge(model, width=64, layers=4)) == greedy(model)


@pytest.mark.parametrize(
    ("family", "name", "broken"),
    [
        ("gpt_neox", "random_rotation", lambda size, _, rng: random_rotation(size, False, rng)),
        ("gpt_neox", "twins", lambda count: (torch.arange(count) // 2, torch.ones(count).double())),
        ("llama", "twins", lambda count: (torch.arange(count) // 2, torch.ones(count).double())),
    ],
    ids=["mean-not-kept", "no-cancelling-neox", "no-cancelling-llama"],
)
def test_a_broken_enlargement_is_noticed(monkeypatch, family, name, broken):
    monkeypatch.setattr(module, name, broken)
    model = small(family)
    large = enlarge(model, width=64, layers=3)
    assert not torch.allclose(logits(large), logits(model), **EXACT)


@each_family
def test_without_the_corrected_eps_it_is_another_function(family):
    model = small(family)
    model.get_input_embeddings().weight.data *= 1e-2  # so small that eps counts
    eps = module.ARCHITECTURES[family].eps
    large = enlarge(model, width=64)
    torch.testing.assert_close(logits(large), logits(model), **EXACT)
    config = copy.deepcopy(large.config)
    setattr(config, eps, getattr(model.config, eps))
    wrong = type(large)(config).double().eval()
    wrong.load_state_dict(large.state_dict())
    assert not torch.allclose(logits(wrong), logits(model), **EXACT)


@each_family
def test_nothing_of_it_is_empty(family):
    """Rows and columns of zeros would be cheap in ways that a model is not."""
    large = enlarge(small(family), width=64, layers=4, neurons=112)
    for name, weight in large.named_parameters():
        if weight.ndim == 2:
            assert bool((weight != 0).any(0).all() and (weight != 0).any(1).all()), name


def test_a_saved_one_is_the_same_and_says_what_it_is(tmp_path):
    large = enlarge(small("gpt_neox"), width=48, layers=3)
    large.save_pretrained(tmp_path)
    again = type(large).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again), logits(large), **EXACT)
    assert "2 layers of width 32" in again.config.enlarged_from


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        ("gpt_neox", {"width": 32}, "above the model's 32 and a multiple of the head size 8"),
        ("gpt_neox", {"width": 50}, "a multiple of the head size 8: got 50"),
        ("llama", {"width": 16}, "above the model's 32: got 16"),
        ("llama", {"width": 64, "layers": 1}, "layers must be at least the model's 2: got 1"),
        ("llama", {"width": 64, "neurons": 9}, "neurons must be at least the model's 48: got 9"),
        ("gpt2", {"width": 64}, "cannot enlarge a gpt2 model: its family must be one of gpt_neox"),
    ],
)
def test_what_does_not_fit_is_rejected(family, sizes, message):
    with pytest.raises(ToolkitError, match=message):
        enlarge(tiny(family), **sizes)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped target, enlarged to a size between, to be quick."""
    folder = tmp_path_factory.mktemp("enlarged") / "stories-19m"
    module.write_enlarged("stories-11m", folder, width=384, layers=9)
    return folder


def test_the_shipped_target_enlarged_decodes_the_same(shipped):
    """In float64; the drafter stays as it is."""
    pool = Pool(dtype="fp64")
    plain = Pipeline(pool=pool)
    prompt = "The old sailor looked at the sea and"
    large = Pipeline(str(shipped), drafter=plain.drafter, pool=pool)
    found = large.generate(prompt, max_new_tokens=24)
    same = plain.generate(prompt, max_new_tokens=24)
    assert pool.load(str(shipped)).module.config.num_hidden_layers == 9
    assert (found.text, found.tau) == (same.text, same.tau)


def test_a_saved_one_rotates_as_the_small_one_does(shipped):
    """Weights are rounded to bf16 when they are loaded, frequencies of the rotation are not."""
    large = module.AutoModelForCausalLM.from_pretrained(shipped, dtype=torch.bfloat16)
    assert {weight.dtype for weight in large.parameters()} == {torch.bfloat16}
    buffers = {name: part.dtype for name, part in large.named_buffers()}
    assert any("inv_freq" in name for name in buffers)
    assert torch.bfloat16 not in buffers.values()


def test_the_default_enlargement_has_about_100_m_parameters():
    config = Pool().find("package:target").config
    with mock.patch.object(module, "_Enlargement"), torch.device("meta"):
        model = module.AutoModelForCausalLM.from_config(config)
        large = enlarge(model, width=768, layers=13)
    assert 95e6 < large.num_parameters() < 105e6


@pytest.mark.parametrize(
    ("name", "said"), [("stories-9m", "stories-11m"), ("stories-11m", "exists: name a new folder")]
)
def test_bad_input_is_one_line(tmp_path, name, said):
    folder = tmp_path if "exists" in said else tmp_path / "new"
    done = CliRunner().invoke(module.main, [name, str(folder)])
    assert done.exit_code == 1
    assert said in done.output
