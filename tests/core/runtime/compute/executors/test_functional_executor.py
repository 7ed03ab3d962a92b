"""The functional executor is held to the transformers module, family by family."""

import copy

import pytest
import torch
import transformers as hf

from toolkit import Pool, Registry
from toolkit.conformance.models import FAMILIES, POSITIONS, VOCABULARY, tiny
from toolkit.errors import ModelError
from toolkit.runtime.compute.layers import decoder, descriptions
from toolkit.runtime.kernels import native
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

FULL = Registry.installed().resolve("kv", "full")
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 0}
OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
}
VARIANTS = {
    "gemma": lambda: hf.GemmaConfig(**GROUPED, pad_token_id=None),
    "gemma-of-two-activations": lambda: hf.GemmaConfig(
        **GROUPED, pad_token_id=None, hidden_act="relu", hidden_activation="gelu_pytorch_tanh"
    ),
    "gemma3-with-a-cap": lambda: hf.Gemma3TextConfig(
        **GROUPED, pad_token_id=None, attn_logit_softcapping=3.0, query_pre_attn_scalar=8
    ),
    "llama-with-biases": lambda: hf.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "llama-of-long-context": lambda: hf.LlamaConfig(
        **GROUPED,
        rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32, "rope_theta": 10000.0,
        },
    ),
    "llama-tied": lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "gpt_neox-in-series": lambda: hf.GPTNeoXConfig(**SMALL, use_parallel_residual=False),
    "gpt2-scaled-by-layer": lambda: hf.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, vocab_size=VOCABULARY,
        scale_attn_by_inverse_layer_idx=True,
    ),
    "opt-350m": lambda: hf.OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False),
    "opt-without-biases": lambda: hf.OPTConfig(
        **OPT, word_embed_proj_dim=32, enable_bias=False, layer_norm_elementwise_affine=False
    ),
}  # fmt: skip


def varied(name):
    """A model of a variant with weights, biases and norms that are all drawn at random."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(VARIANTS[name]()).double().eval()
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3)
    return model


def logits(model, executor, owned=False):
    """Of a prompt, and of a tree after it, and again after a commit."""
    session = ModelSession(
        prepare("it", copy.deepcopy(model), executor=executor, owned=owned), FULL.build()
    )
    assert session.model.executor.name == executor
    found = [session.prefill([i % 13 + 1 for i in range(20)])[None]]
    for _ in range(2):
        found.append(session.forward([5, 8, 9, 7, 3], [-1, 0, 0, 2, 1]))
        session.commit([0, 2, 3])
    return torch.cat(found)


@pytest.mark.parametrize("owned", [False, True], ids=["lent", "owned"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "phi"])
def test_logits_are_the_modules(family, owned):
    model = tiny(family)
    got, expected = logits(model, "functional", owned), logits(model, "module")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_variants_are_the_modules(variant):
    model = varied(variant)
    got, expected = logits(model, "functional", owned=True), logits(model, "module")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 0.5)])
@pytest.mark.parametrize("variant", ["gemma", "llama-with-biases", "gpt_neox-in-series"])
def test_logits_in_lower_precision_are_near(variant, dtype, tolerance):
    model = varied(variant)
    exact = logits(model, "module")
    got = logits(copy.deepcopy(model).to(dtype), "functional")
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=tolerance * exact.abs().max())


def test_a_layer_that_is_wrong_is_noticed(monkeypatch):
    """The control: without its norms a layer's logits are far off."""
    model, expected = tiny("llama"), logits(tiny("llama"), "module")
    monkeypatch.setattr(
        decoder.Layer, "__call__", lambda self, x, rows: self.attention(x, rows) + self.mlp(x)
    )
    assert (logits(model, "functional") - expected).abs().max() > 1e-3


def test_every_described_family_is_held():
    held = {FAMILIES[f]().model_type for f in FAMILIES} | {c().model_type for c in VARIANTS.values()}
    assert set(descriptions()) <= held


def test_what_is_not_described_is_run_as_a_module():
    model = copy.deepcopy(tiny("phi"))
    assert prepare("it", model).executor.name == "module"
    assert "phi" in prepare("it", model).executor.why
    with pytest.raises(ModelError, match="no functional executor for this phi model: no descr"):
        prepare("it", model, executor="functional").executor  # noqa: B018


def test_a_changed_module_is_run_as_a_module():
    hooked = copy.deepcopy(tiny("llama"))
    hooked.model.layers[0].register_forward_hook(lambda *_: None)
    assert "has hooks" in prepare("it", hooked).executor.why

    class Adapted(torch.nn.Linear):
        pass

    adapted = copy.deepcopy(tiny("llama"))
    adapted.model.layers[0].mlp.up_proj = Adapted(32, 48, bias=False, dtype=torch.double)
    assert "is a Adapted" in prepare("it", adapted).executor.why


def test_a_wrapped_linear_is_run_as_a_module():
    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        @property
        def weight(self):
            return self.inner.weight

    wrapped = copy.deepcopy(tiny("llama"))
    wrapped.model.layers[0].mlp.up_proj = Wrapped(wrapped.model.layers[0].mlp.up_proj)
    assert "up_proj is a Wrapped" in prepare("it", wrapped).executor.why


def test_weights_are_not_copied():
    """What an owned module's linears share is what the executor reads; a lent one stays as it is."""
    for owned in (False, True):
        model = copy.deepcopy(tiny("llama"))
        before = {p.data_ptr() for p in model.parameters()}
        layer = prepare("it", model, owned=owned).executor.decoder.layers[0]
        query = model.model.layers[0].self_attn.q_proj.weight
        assert (query.data_ptr() in before) != owned
        made = layer.attention.qkv.kernel
        parts = [made] if owned else made.parts
        assert parts[0].weight.data_ptr() == query.data_ptr()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "phi"])
def test_a_model_on_another_device_asks_for_no_kernels_in_c(monkeypatch, family):
    """Asking compiles them. A model on the meta device stands in for one on a GPU."""

    def asked():
        raise AssertionError("kernels in C were asked for")

    monkeypatch.setattr(native, "library", asked)
    session = ModelSession(prepare("it", copy.deepcopy(tiny(family)).to("meta")), FULL.build())
    assert session.model.executor.name == "functional"
    logits = session.forward([5, 8, 9], [-1, 0, 0])
    session.cache.commit([0, 2])
    assert logits.shape == (3, VOCABULARY)
    assert session.cache.layers[0].keys.is_meta


def test_an_unknown_executor():
    with pytest.raises(ModelError, match="no executor 'fast': there are auto, module, functional"):
        Pool(executor="fast")
