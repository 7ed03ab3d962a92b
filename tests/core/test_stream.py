"""What a result says of graphs and of a GPU's memory. Tapes stand in for CUDA graphs."""

import copy

import pytest
import torch
from attrs import evolve
from tape import Tape

from toolkit import Pipeline, Pool
from toolkit.conformance.models import noisy, tiny
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.compute.executors.captured import DEEPEST
from toolkit.runtime.kv import slab

PROMPT = [5, 9, 33, 4, 8, 60, 17]


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    monkeypatch.setattr(slab, "SMALLEST", DEEPEST)
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())


def pipeline(shaper, **options):
    target, draft = (copy.deepcopy(made).double() for made in (tiny("llama"), noisy("llama")))
    pool = Pool(modules={"it": target, "noisy": draft})
    options = {"drafter": "model:noisy", "ignore_eos": True, **options}
    return Pipeline("it", shaper=shaper, pool=pool, **options)


@pytest.mark.parametrize("model", ["it", "noisy"])
def test_a_capture_that_fails_during_a_request_is_in_its_result(monkeypatch, model):
    made = pipeline("adaptive")
    refusing = made.pool.load(model).executor.captured

    class Refuses(Tape):
        def record(self, run):
            raise RuntimeError("no such operation\nin a graph")

    refusing.recorder = Refuses()
    failed = "capturing failed: RuntimeError: no such operation"
    differ = "pass by pass, because the trees of shaper adaptive differ in shape"
    assert made.generate(PROMPT, max_new_tokens=9).steps_run == f"{differ}; {failed}"
    if model == "it":
        again = made.generate(PROMPT, max_new_tokens=9).steps_run
        assert again == f"pass by pass, because {failed}"


@pytest.mark.parametrize(
    "options", [{"shaper": "adaptive"}, {"shaper": "chain:k=4"}, {"shaper": "chain", "drafter": "none"}]
)
def test_graphs_are_counted_for_the_request_that_captures_them(options):
    """The first one of its length: a longer one outgrows its K/V buffers."""
    made = pipeline(**options)
    counts = [
        made.generate(PROMPT, max_new_tokens=tokens).graphs_captured
        for tokens in (20, 20, 90, 90)
    ]
    assert counts[0] > 0 == counts[1]
    assert counts[2] > 0 == counts[3]


def test_a_turn_counts_its_own_graphs():
    made = pipeline("chain:k=4")
    first = made.stream(PROMPT, max_new_tokens=9)
    ids = [token for event in first.decode() for token in event.tokens]
    assert first.target.cache.graphs_captured > 0
    second = made.stream([*PROMPT, *ids, 3], after=first, max_new_tokens=9)
    assert second.target is first.target
    assert second.target.cache.graphs_captured == 0


def test_the_peak_is_that_of_the_request_on_all_its_gpus(monkeypatch):
    made, peaks = pipeline("chain:k=4"), {0: 100, 1: 20}
    stream = made.stream(PROMPT, max_new_tokens=9)
    forgotten = []
    monkeypatch.setattr("toolkit.stream.forget_peaks", lambda: forgotten.append(len(stream.events)))
    list(stream.decode())
    assert forgotten == [0]
    for index, session in enumerate([stream.target, *stream.drafts.sessions]):
        session.model = evolve(session.model, device=torch.device("cuda", index))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[device.index])
    assert stream.result.peak_memory_bytes == 120
