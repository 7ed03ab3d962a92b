"""A request's K/V are free when the request ends, without a run of the garbage collector."""

import gc
from weakref import ref

import pytest
import torch
from tape import Tape

from toolkit import Pipeline, Pool
from toolkit.conformance.models import noisy, tiny
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.kv.cache import TreeCache, TreeLayer
from toolkit.runtime.kv.slab import Nobody, Slabs

CHOICES = [
    {"drafter": "none"},
    {"drafter": "model:noisy", "shaper": "budget", "kv": "h2o:budget=12,epoch=4,recent=4"},
    {"drafter": "model:noisy", "shaper": "adaptive", "kv": "window:budget=8"},
    {"drafter": "self", "shaper": "chain"},
    {"drafter": "ngram", "kv": "streaming:budget=8"},
]


@pytest.fixture
def uncollected():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def caches_left(pipeline, monkeypatch):
    """How many caches are alive after two requests, of how many."""
    made, honest = [], TreeCache.__init__

    def noted(self, *args, **options):
        honest(self, *args, **options)
        made.append(ref(self))

    with monkeypatch.context() as patch:
        patch.setattr(TreeCache, "__init__", noted)
        for _ in range(2):
            pipeline.generate([5, 9, 33, 4, 8, 60, 17], max_new_tokens=20)
    return sum(cache() is not None for cache in made), len(made)


def make(choice):
    modules = {"it": tiny("llama"), "noisy": noisy("llama", noise=0.02)}
    return Pipeline("it", pool=Pool(modules=modules, executor="functional"), **choice)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_caches_die_with_their_request(choice, uncollected, monkeypatch):
    left, count = caches_left(make(choice), monkeypatch)
    assert left == 0
    assert count > 1


def test_a_cycle_would_keep_them(uncollected, monkeypatch):
    """The control."""
    honest = TreeLayer.__init__

    def cyclic(self, owner, *args):
        honest(self, owner, *args)
        self.owner = owner

    monkeypatch.setattr(TreeLayer, "__init__", cyclic)
    left, count = caches_left(make(CHOICES[0]), monkeypatch)
    assert left == count > 0


def test_requests_one_after_another_use_one_slab(uncollected, monkeypatch):
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    pipeline = make({"drafter": "model:noisy", "shaper": "adaptive"})
    for _ in range(3):
        pipeline.generate([5, 9, 33, 4, 8, 60, 17], max_new_tokens=20)
    for name in ("it", "noisy"):
        assert len(pipeline.pool.load(name).executor.slabs._slabs) == 1


def test_former_requests_make_room_for_a_larger_slab(monkeypatch):
    """What a request holds stays. Without room for one more there is an error, as before."""
    slabs, honest, room = Slabs((1, 1, 2), torch.float32, torch.device("cpu")), torch.zeros, [2]

    def limited(*args, **options):
        if len(slabs._slabs) >= room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(*args, **options)

    monkeypatch.setattr(torch, "zeros", limited)
    holder = Nobody()
    holder.slab = held = slabs.take(holder, 1000)
    slabs.take(Nobody(), 3000)  # of a request that has ended
    large = slabs.take(other := Nobody(), 9000)
    other.slab = large
    assert slabs._slabs == [held, large]
    with pytest.raises(torch.OutOfMemoryError):
        slabs.take(Nobody(), 20000)
