"""A decision about all layers together, against decisions about one layer at a time."""

import copy
import os
from itertools import cycle, product

import pytest
import torch
import transformers as hf
from tape import Tape
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit import Pool, ScorePolicy
from toolkit.conformance.comparison import Broken, require_same_rows, snapshot
from toolkit.conformance.models import FAMILIES
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.kernels import native
from toolkit.runtime.kv import compaction, score_eviction
from toolkit.runtime.kv.eviction import Eviction
from toolkit.runtime.session import ModelSession

QUICK = os.environ.get("TOOLKIT_PROFILE", "quick") == "quick"
SPECS = [
    "h2o:budget=16,epoch=4,recent=4",
    "h2o:budget=16,epoch=4,recent=4,mean=true",
    "tova:budget=16,epoch=4",
    "knorm:budget=16,epoch=4",
    "knorm:budget=16,epoch=4,skip_layers=2",
    "knorm:budget=30,epoch=4,skip_layers=2",  # the prompt fits: layers part later
    "knorm:budget=16,epoch=4,keep=random",
    "keydiff:budget=16,epoch=4,recent=4",
    "lagkv:budget=16,epoch=4,lag=4",
    "expected:budget=16,epoch=4,recent=4",
    "headaware:budget=16,epoch=4,recent=2,mass=0.5",
    "snapkv:budget=16,recent=4",
    "pyramid:budget=16,recent=4",
]


class MixesHeads(ScorePolicy):
    """Says that it scores each head by its own rows, and does not."""

    name, budget, epoch, headwise = "mixes", 16, 4, True

    def score(self, view):
        return view.keys.norm(dim=-1).mean(0).expand(view.positions.shape)


def deep(family, layers):
    """A random model with so many layers."""
    config = FAMILIES[family]()
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * layers)[:layers]
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(config).double().eval()


MODELS = {name: deep(name, 5) for name in ("llama", "gemma2", "gpt2")}


def decoded(policy, model, steps=10, executor="auto"):
    """A session after steps that reject some drafts."""
    pool = Pool(modules={"it": copy.deepcopy(model)}, executor=executor)
    session = ModelSession(pool.load("it"), policy)
    text = [(7 * i * i) % 90 + 1 for i in range(200)]
    session.prefill(text[:26])
    for step in range(steps):
        at = session.length
        session.forward([text[at], 3, *text[at + 1 : at + 3]], [-1, 0, 0, 2])
        session.commit([0, 2, 3][: 1 + step % 3])
    return session


def one_by_one(patch):
    """Layers are never joined."""
    patch.setattr(score_eviction, "join", lambda cache, kind: None)


FEW = list(zip(cycle(MODELS), SPECS))  # each of both


@pytest.mark.parametrize(("family", "spec"), FEW if QUICK else list(product(MODELS, SPECS)))
def test_a_decision_about_n_layers_is_n_decisions_about_one(make, family, spec):
    ours = decoded(make("kv", spec), MODELS[family])
    with pytest.MonkeyPatch.context() as patch:
        one_by_one(patch)
        theirs = decoded(make("kv", spec), MODELS[family])
    assert ours.cache.evicted == theirs.cache.evicted > 0
    require_same_rows(snapshot(ours.cache), snapshot(theirs.cache), "together", 1e-9)
    for mine, other in zip(ours.cache.initialized, theirs.cache.initialized, strict=True):
        assert mine.table.count == other.table.count  # padded no further than a layer of its own
    assert "skip" in spec or "pyramid" in spec or len(ours.cache.groups) < len(theirs.cache.groups)


@pytest.mark.parametrize("spec", SPECS[:11])
def test_a_decision_in_portions_is_the_same(make, monkeypatch, spec):
    """Two layers at a time, where the keys of all would take too much memory."""
    ours = decoded(make("kv", spec), MODELS["llama"])
    found, honest = [], score_eviction.portions

    def portions(layers, rows):
        heads, width = layers[0].keys.shape[1], layers[0].keys.shape[3]
        monkeypatch.setattr(compaction, "CELLS", 2 * heads * rows * width)
        found.append(max(map(len, honest(layers, rows))))
        return honest(layers, rows)

    monkeypatch.setattr(score_eviction, "portions", portions)
    theirs = decoded(make("kv", spec), MODELS["llama"])
    assert max(found) == 2 or "headaware" in spec
    require_same_rows(snapshot(ours.cache), snapshot(theirs.cache), "in portions", 1e-9)


def test_a_policy_that_mixes_heads_is_another_one_together():
    """The control."""
    ours = decoded(MixesHeads(), MODELS["llama"])
    with pytest.MonkeyPatch.context() as patch:
        one_by_one(patch)
        theirs = decoded(MixesHeads(), MODELS["llama"])
    with pytest.raises(Broken):
        require_same_rows(snapshot(ours.cache), snapshot(theirs.cache), "together", 1e-9)


def test_other_policies_are_asked_layer_by_layer():
    class Asked(MixesHeads):
        headwise = False

    ours = decoded(Asked(), MODELS["llama"])
    with pytest.MonkeyPatch.context() as patch:
        one_by_one(patch)
        theirs = decoded(Asked(), MODELS["llama"])
    assert len(ours.cache.groups) == 1
    require_same_rows(snapshot(ours.cache), snapshot(theirs.cache), "together", 1e-9)


class Counting(TorchDispatchMode):
    """Counts operations that compute: a view of a tensor costs a GPU nothing."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        returns = operation._schema.returns
        views = returns and all(r.alias_info and not r.alias_info.is_write for r in returns)
        self.count += not views
        return operation(*args, **(kwargs or {}))


def operations(policy, layers, monkeypatch):
    """How many operations each decision takes, the most of all decisions."""
    found, honest = [], Eviction.after_commit

    def counted(self):
        before = self.clock.boundary
        with Counting() as mode:
            honest(self)
        if self.clock.boundary > before:
            found.append(mode.count)

    with monkeypatch.context() as patch:
        patch.setattr(Eviction, "after_commit", counted)
        decoded(policy, deep("llama", layers))
    return max(found)


TOGETHER = [
    spec
    for spec in SPECS
    if not any(word in spec for word in ("random", "skip", "headaware", "snapkv", "pyramid"))
]


@pytest.mark.parametrize("slab", [False, True])
@pytest.mark.parametrize("spec", [*TOGETHER, "streaming:budget=16,epoch=4", "window:budget=12"])
def test_a_decision_takes_as_many_operations_for_any_number_of_layers(
    make, monkeypatch, spec, slab
):
    if not slab and native.why_not():
        pytest.skip("no C compiler: rows move layer by layer")
    if slab:
        monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    few, many = (operations(make("kv", spec), layers, monkeypatch) for layers in (2, 9))
    assert 0 < many == few


def test_one_by_one_operations_grow_with_layers(make, monkeypatch):
    """The control."""
    one_by_one(monkeypatch)
    few, many = (operations(make("kv", TOGETHER[0]), n, monkeypatch) for n in (2, 9))
    assert many > 4 * few


@pytest.mark.parametrize("spec", [*TOGETHER, SPECS[-3]])
def test_a_decision_waits_once_for_the_device(make, monkeypatch, spec):
    """One read of values for all layers."""
    reads, found = [], []
    for name in ("tolist", "item", "__int__", "__bool__", "__float__", "__index__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda t, f=original, n=name: reads.append(n) or f(t)
        )

    def counted(self, now):
        before = len(reads)
        honest(self, now)
        found.append(len(reads) - before)

    honest = score_eviction.ScoreEviction.decide
    monkeypatch.setattr(score_eviction.ScoreEviction, "decide", counted)
    session = decoded(make("kv", spec), MODELS["llama"])
    assert max(found) <= len(session.cache.groups)
    assert "headaware" in spec or set(found) == {1}
