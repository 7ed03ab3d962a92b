"""The functional executor is held to the transformers module, family by family."""

import copy

import pytest
import torch
import transformers as hf
from transformers.models.llama.modeling_llama import LlamaMLP

from toolkit import Pool, Registry
from toolkit.conformance.models import FAMILIES, POSITIONS, VOCABULARY, tiny
from toolkit.errors import ModelError
from toolkit.runtime.compute.executors import choose_executor
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
    """As `logits_of`, of a copy."""
    prepared = prepare("it", copy.deepcopy(model), executor=executor, owned=owned)
    assert prepared.executor.name == executor
    return _logits(prepared)


def logits_of(model):
    """Of a prompt, and of a tree after it, and again after a commit."""
    return _logits(prepare("it", model))


def _logits(prepared):
    session = ModelSession(prepared, FULL.build())
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


@pytest.mark.parametrize("owned", [False, True], ids=["lent", "owned"])
@pytest.mark.parametrize("dtype", [torch.double, torch.float32, torch.bfloat16])
def test_where_logits_differ_the_module_runs(monkeypatch, owned, dtype):
    """The control: a description whose layers leave out their norms."""
    model = copy.deepcopy(tiny("llama")).to(dtype)
    monkeypatch.setattr(
        decoder.Layer,
        "__call__",
        lambda self, x, _, rows: (self.attention(x, rows), (self.mlp(x),)),
    )
    executor = prepare("it", model, owned=owned).executor
    assert executor.name == "module"
    assert "logits differ from the module's" in executor.why
    with pytest.raises(ModelError, match=r"no functional executor.*logits differ"):
        prepare("it", model, executor="functional").executor  # noqa: B018


def test_packed_weights_that_differ_are_noticed(monkeypatch):
    """What is packed may run other code than the layers: its logits are compared, too."""
    honest = choose_executor.make_functional

    def wrong(*arguments):
        made = honest(*arguments)
        monkeypatch.setattr(
            type(made), "forward", lambda self, now, keep=0: torch.ones(8, VOCABULARY)
        )
        return made

    monkeypatch.setattr(choose_executor, "make_functional", wrong)
    assert prepare("it", copy.deepcopy(tiny("llama"))).executor.name == "module"
    monkeypatch.undo()
    monkeypatch.setattr(choose_executor, "make_functional", wrong)
    with pytest.raises(ModelError, match=r"logits differ.*executor module runs it"):
        prepare("it", copy.deepcopy(tiny("llama")), owned=True).executor  # noqa: B018


def test_every_described_family_is_held():
    held = {FAMILIES[f]().model_type for f in FAMILIES} | {
        c().model_type for c in VARIANTS.values()
    }
    assert set(descriptions()) <= held


def test_what_is_not_described_is_run_as_a_module():
    model = copy.deepcopy(tiny("phi"))
    assert prepare("it", model).executor.name == "module"
    assert "phi" in prepare("it", model).executor.why
    with pytest.raises(ModelError, match="no functional executor for this phi model: no descr"):
        prepare("it", model, executor="functional").executor  # noqa: B018


class Tripled(torch.nn.Linear):
    """A subclass of code of its own."""

    def forward(self, x):
        return super().forward(x) * 3


class Adapter(torch.nn.Module):
    """A wrapper that has no `weight`."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * 3


class Wrapper(Adapter):
    """A wrapper that has one."""

    @property
    def weight(self):
        return self.inner.weight


def _patch(model):
    plain = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: plain(x) * 3


def _replace(make):
    def change(model):
        mlp = model.model.layers[0].mlp
        mlp.up_proj = make(mlp.up_proj)

    return change


def _subclass(linear):
    made = Tripled(32, 48, bias=False, dtype=torch.double)
    made.load_state_dict(linear.state_dict())
    return made


def _norm(model):
    model.model.layers[1].input_layernorm = torch.nn.Identity()


def _smaller(model):
    for name, shape in (("up_proj", (40, 32)), ("gate_proj", (40, 32)), ("down_proj", (32, 40))):
        weight = getattr(model.model.layers[0].mlp, name).weight
        weight.data = weight.data[: shape[0], : shape[1]].clone()


class Louder(hf.LlamaForCausalLM):
    """A model with code of its own."""

    def forward(self, *given, **named):
        out = super().forward(*given, **named)
        out.logits = -out.logits
        return out


CHANGES = {
    "a hook": (
        lambda m: m.model.layers[0].mlp.register_forward_hook(lambda *c: c[2] * 3),
        "has hooks",
    ),
    "a patch": (_patch, "layers.0.mlp has a forward of its own"),
    "a subclass": (_replace(_subclass), "up_proj is a Tripled, not a Linear"),
    "an adapter": (_replace(Adapter), "up_proj is a Adapter, not a Linear"),
    "a wrapper": (_replace(Wrapper), "up_proj is a Wrapper, not a Linear"),
    "a part": (_norm, "input_layernorm is a Identity, not a LlamaRMSNorm"),
    "shapes": (_smaller, "weights of other shapes"),
    "a model": (lambda m: setattr(m, "__class__", Louder), "the module is a Louder"),
    "an attribute": (
        lambda m: setattr(m.model.layers[0].mlp, "act_fn", torch.nn.Tanh()),
        "is a Tanh",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_module_is_run_as_a_module(change):
    model = copy.deepcopy(tiny("llama"))
    before = logits(model, "functional")
    alter, why = CHANGES[change]
    alter(model)
    executor = prepare("it", model).executor
    assert executor.name == "module"
    assert why in executor.why
    assert (logits_of(model) - before).abs().max() > 1e-3  # the change says something


def test_a_patched_class_is_run_as_a_module(monkeypatch):
    """Its structure is as ever: only the logits show it."""
    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: plain(self, x) * 3)
    executor = prepare("it", copy.deepcopy(tiny("llama"))).executor
    assert "logits differ from the module's" in executor.why


def test_a_layer_with_attention_of_its_own_is_refused():
    model = copy.deepcopy(tiny("llama"))
    model.model.layers[0].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ModelError, match="1 of 2 layers use the attention that was set"):
        logits_of(model)


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
