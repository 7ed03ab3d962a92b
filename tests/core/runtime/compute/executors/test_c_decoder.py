"""A pass in C equals the described decoder: close to the module, with the same bits in any order of
rows."""

import copy
import weakref

import pytest
import torch

from toolkit import Registry
from toolkit.conformance.models import FAMILIES, tiny
from toolkit.runtime import numerics
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.compute.linears.kernels import Blocked
from toolkit.runtime.kernels import native
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

from .test_functional_executor import VARIANTS, logits, varied

pytestmark = [
    pytest.mark.usefixtures("isa"),
    pytest.mark.skipif(native.why_not() is not None, reason="no C compiler"),
]
LOW = [torch.float32, torch.bfloat16]
DESCRIBED = [family for family in FAMILIES if family != "phi"]
MODELS = [*DESCRIBED, *VARIANTS]
PROMPT = list(range(1, 10))


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Our linears, whichever is fastest for models as tiny as these."""
    monkeypatch.setattr(fastest, "fastest_kernel", lambda *_: Blocked)


def model_of(name):
    return varied(name) if name in VARIANTS else tiny(name)


def loaded(name, dtype):
    return prepare("it", copy.deepcopy(model_of(name)).to(dtype), owned=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_described_decoder_runs_in_c_but_one(name, dtype):
    model = loaded(name, dtype)
    assert (model.executor.c_decoder is None) == (name == "opt-350m")
    assert numerics.find_difference(model) is None
    assert numerics.find_level(model).name == "bitwise"


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_modules(name):
    exact = logits(model_of(name), "module")
    for dtype, tolerance in zip(LOW, (2e-5, 5e-2), strict=True):
        got = logits(copy.deepcopy(model_of(name)).to(dtype), "functional", owned=True)
        assert (got.double() - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("name", MODELS)
def test_what_it_caches_is_what_the_steps_cache(name, isa):
    """Keys, values and the queries that a policy asks for: near those of a pass step by step."""
    model, h2o = loaded(name, torch.float32), Registry.installed().resolve("kv", "h2o")
    whole, steps = (ModelSession(model, h2o.build()) for _ in range(2))
    for session in (whole, steps):
        session.prefill(PROMPT)
        with native.using(None if session is steps else isa):
            session.forward([5, 8, 9, 7], [-1, 0, 0, 2])
    for ours, theirs in zip(whole.cache.layers, steps.cache.layers, strict=True):
        pairs = [(ours.keys, theirs.keys), (ours.values, theirs.values)]
        logs = [layer.group.queries.scratch[layer.place] for layer in (ours, theirs)]
        pairs += list(zip(*logs, strict=True))
        assert bool(logs[0]) == ours.scored
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2"])
def test_threads_change_no_bit(name, monkeypatch):
    monkeypatch.setattr("toolkit.runtime.compute.executors.c_decoder.SHARE", 1)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        found.append(logits(copy.deepcopy(model_of(name)).float(), "functional"))
    assert torch.equal(*found)


def test_tables_that_were_outgrown_are_freed():
    whole = loaded("llama", torch.bfloat16).executor.c_decoder
    first = weakref.ref(whole._tables(10))
    assert whole._tables(20) is first()
    assert whole._tables(5000).size > 5000
    assert first() is None


def test_weights_of_two_dtypes_are_left_to_pytorch(monkeypatch):
    monkeypatch.undo()
    model = copy.deepcopy(model_of("gemma2")).bfloat16()
    model.model.norm.float()
    executor = prepare("it", model).executor
    assert executor.c_decoder is None
    assert "PyTorch's own" in executor.linears


def test_a_module_whose_storage_moves_is_read_no_more():
    model = copy.deepcopy(model_of("gpt_neox")).float()
    session = ModelSession(prepare("it", model))
    before = session.prefill(PROMPT)
    model.share_memory()
    again = ModelSession(session.model)
    assert torch.equal(again.prefill(PROMPT), before)


@pytest.mark.parametrize(
    ("name", "looks_up"), [("llama", True), ("gpt_neox", True), ("gemma2", False)]
)
def test_c_looks_tokens_up_where_the_decoder_does_no_more(name, looks_up):
    executor = loaded(name, torch.float32).executor
    assert (executor.c_decoder._embedding is not None) == looks_up


@pytest.mark.parametrize("token", [-1, 10**6])
def test_no_token_beyond_the_embedding_is_looked_up(token):
    session = ModelSession(loaded("llama", torch.float32))
    with pytest.raises(IndexError):
        session.forward([5, token], [-1, 0])


def test_what_c_does_not_know_runs_step_by_step():
    model = copy.deepcopy(varied("llama-with-biases")).float()
    model.config.hidden_act = "tanh"
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.Tanh()
    assert prepare("it", model).executor.c_decoder is None


def test_trees_of_any_size_have_the_same_bits():
    model, sessions = loaded("gpt_neox", torch.float32), []
    for count in (300, 3):
        session = ModelSession(model)
        session.prefill(PROMPT)
        tokens = [row % 90 + 1 for row in range(count)]
        parents = [min(row - 1, 1) for row in range(count)]
        sessions.append(session.forward(tokens, parents)[:3])
    assert torch.equal(*sessions)


def test_prompts_of_many_rows_and_scored_ones_run_step_by_step(monkeypatch):
    model, ran = loaded("llama", torch.float32), []
    assert model.executor.c_decoder
    layer_by_layer = FunctionalExecutor._layer_by_layer

    def counted(self, now, keep):
        ran.append(len(now.host.tokens))
        return layer_by_layer(self, now, keep)

    monkeypatch.setattr(FunctionalExecutor, "_layer_by_layer", counted)
    registry = Registry.installed()
    for spec, count in [("full", 256), ("full", 257), ("h2o", 200)]:
        ModelSession(model, registry.resolve("kv", spec).build()).prefill([1] * count)
    assert ran == [257, 200]
