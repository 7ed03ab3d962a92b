"""Kernels in C are for the CPU: nothing looks for them elsewhere, which would compile them."""

import copy
import sys

import pytest
import torch

from toolkit.conformance.models import tiny
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.compute.linears.kernels import kernels_for
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kernels import native
from toolkit.runtime.kv.compaction import compact
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession


@pytest.fixture
def looking(monkeypatch):
    """The functions that look for kernels in C. They find none."""
    found = set()
    monkeypatch.setattr(native, "library", lambda: found.add(sys._getframe(1).f_code.co_name))
    return found


def decode(device):
    """Passes over a prompt and a tree, a commit, and what may follow, without a look at values."""
    module = copy.deepcopy(tiny("llama")).float().to(device)
    model = prepare("it", module)
    kernels_for(module)
    model.__dict__["executor"] = FunctionalExecutor.of(module, model.windows, Linears(owned=False))
    session = ModelSession(model)
    session.eviction.all_visible_until = 99  # to find it, values are read
    session.forward([5, 9, 33], [-1, 0, 1])
    session.commit([0, 1, 2])
    logits = session.forward([1, 2, 3, 4], [-1, 0, 0, 1])
    session.commit([0, 2])
    compact(session.cache.layers, torch.tensor([[0, 2, 3]], device=device))
    native.for_logits(logits)


def test_on_another_device_nothing_looks_for_kernels_in_c(looking):
    """The meta device stands in for a GPU."""
    decode("meta")
    assert looking == set()


def test_on_the_cpu_all_of_it_does(looking):
    """The control."""
    decode("cpu")
    places = {"for_attention", "for_activation", "for_logits", "kernels_for", "_move", "compact"}
    assert looking == places
