"""A captured pass is compared with the module's, as it has kernels of its own."""

import copy

import pytest
import torch
from tape import Tape

from toolkit import Pipeline, Pool
from toolkit.conformance.models import tiny
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.models.load import prepare


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())


def graphs(model):
    """How many graphs of a model there are."""
    return sum(len(slab.graphs) for slab in model.executor.slabs._slabs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "mistral", "opt"])
def test_graphs_that_give_the_modules_logits_are_used(family):
    made = prepare("it", copy.deepcopy(tiny(family)).double())
    assert made.executor.captured.failure is None
    assert graphs(made) == 1


def test_graphs_that_do_not_are_left_out(monkeypatch):
    """As by a kernel that is wrong on some GPU. Passes run layer by layer, and a result says why."""
    module = tiny("llama")
    expected = Pipeline(copy.deepcopy(module), drafter="none").generate([5, 9, 33], max_new_tokens=9)
    honest = captured.tree_attention
    monkeypatch.setattr(
        captured, "tree_attention", lambda *given, **named: honest(*given, **named) * 1.5
    )
    pool = Pool(modules={"it": copy.deepcopy(module).double()})
    found = Pipeline("it", drafter="none", pool=pool).generate([5, 9, 33], max_new_tokens=9)
    assert found.token_ids == expected.token_ids
    assert "its logits differ from the module's" in found.steps_run
    assert "its logits differ" in pool.load("it").executor.why


def test_what_cannot_be_captured_is_not_tried_again(monkeypatch):
    tries = []

    class Refuses(Tape):
        def record(self, run):
            tries.append(run)
            raise RuntimeError("no such operation")

    monkeypatch.setattr(captured, "recorder_for", lambda _: Refuses())
    pool = Pool(modules={"it": copy.deepcopy(tiny("llama")).double()})
    found = Pipeline("it", drafter="none", pool=pool).generate([5, 9, 33], max_new_tokens=4)
    assert found.steps_run == "pass by pass, because capturing failed: RuntimeError: no such operation"
    assert len(tries) == 1


def test_a_graph_that_is_made_in_inference_mode_is_used_outside():
    pool = Pool(modules={"it": copy.deepcopy(tiny("llama")).double()})
    with torch.inference_mode():
        assert graphs(pool.load("it")) == 1
    Pipeline("it", drafter="none", pool=pool).generate([5, 9, 33], max_new_tokens=4)


def test_without_memory_for_a_graph_nothing_is_compared(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(captured.Slabs, "take", full)
    made = prepare("it", copy.deepcopy(tiny("llama")).double())
    assert made.executor.captured.failure is None
