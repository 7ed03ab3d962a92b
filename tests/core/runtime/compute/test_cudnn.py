"""cuDNN's attention is off while a pass runs, and afterwards what it was."""

import copy
from threading import Barrier, Thread

import pytest
import torch

from toolkit import Registry
from toolkit.conformance.models import tiny
from toolkit.runtime.compute.cudnn import without_cudnn
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

allowed = torch.backends.cuda.cudnn_sdp_enabled


@pytest.fixture(params=[True, False], ids=["allowed before", "off before"])
def before(request):
    was = allowed()
    torch.backends.cuda.enable_cudnn_sdp(request.param)
    yield request.param
    torch.backends.cuda.enable_cudnn_sdp(was)


def test_it_is_off_inside_and_as_before_outside(before):
    with without_cudnn:
        assert not allowed()
        with without_cudnn:
            assert not allowed()
        assert not allowed()
    assert allowed() is before


def test_it_is_as_before_after_a_pass_that_failed(before):
    with pytest.raises(RuntimeError), without_cudnn:
        raise RuntimeError
    assert allowed() is before


def test_it_is_off_until_the_last_of_two_passes_ends(before):
    """The first pass to begin ends first, so the other must not turn it off for good."""
    both, one = Barrier(2), Barrier(2)
    seen = []

    def first():
        with without_cudnn:
            both.wait(timeout=60)
        one.wait(timeout=60)

    thread = Thread(target=first)
    thread.start()
    with without_cudnn:
        both.wait(timeout=60)
        one.wait(timeout=60)
        seen.append(allowed())
    thread.join()
    assert seen == [False]
    assert allowed() is before


@pytest.mark.parametrize(("device", "during"), [("meta", False), ("cpu", True)])
def test_a_pass_anywhere_but_on_the_cpu_goes_without_it(monkeypatch, device, during):
    """A model on the meta device stands in for one on a GPU."""
    seen, forward = [], FunctionalExecutor.forward

    def watched(*args):
        seen.append(allowed())
        return forward(*args)

    was = allowed()
    torch.backends.cuda.enable_cudnn_sdp(True)
    monkeypatch.setattr(FunctionalExecutor, "forward", watched)
    model = prepare("it", copy.deepcopy(tiny("gpt_neox")).to(device))
    policy = Registry.installed().resolve("kv", "full").build()
    ModelSession(model, policy).forward([5, 8, 9], [-1, 0, 0])
    assert {*seen} == {during}  # loading compares logits, too
    assert allowed()
    torch.backends.cuda.enable_cudnn_sdp(was)
