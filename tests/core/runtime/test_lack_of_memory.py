"""Where a device runs out of memory, the error says what to lower, and what is finished stays."""

import copy

import pytest
import torch
from tape import Tape

from toolkit import Pipeline, Pool, sampling
from toolkit.conformance.models import noisy, tiny
from toolkit.errors import NoMemoryError, StrategyError
from toolkit.runtime import numerics, static_step
from toolkit.runtime.compute.executors import captured, choose_executor
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kv import slab
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.eviction import Eviction
from toolkit.runtime.kv.score_eviction import ScoreEviction
from toolkit.runtime.kv.slab import Slabs
from toolkit.runtime.shared_session import SharedSession

PROMPT = [5, 9, 33, 4, 8, 60, 17]
TREES = {"drafter": "model:noisy", "shaper": "adaptive"}
WHOLE = {"drafter": "model:noisy", "shaper": "growmap:tree=3x2"}  # its steps are one graph each
SCORED = TREES | {"kv": "h2o:budget=12,epoch=4,recent=4"}
SHARED = TREES | {"drafter": "self:kv=[window:budget=8]"}


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    monkeypatch.setattr(slab, "SMALLEST", 64)


def make(options=TREES):
    target = copy.deepcopy(tiny("llama")).double()
    modules = {"it": target, "noisy": copy.deepcopy(noisy("llama", noise=0.02)).double()}
    made = Pipeline("it", pool=Pool(modules=modules), ignore_eos=True, **options)
    made.load()
    return made


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (choose_executor.fastest, "fastest_kernel"),
        (Linears, "set_rule"),
        (FunctionalExecutor, "forward"),
    ],
)
def test_without_memory_to_choose_an_executor(owner, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(NoMemoryError, match=r"^cpu has no memory left to choose what runs"):
            make()
    make()  # the control


PLACES = {
    "a prompt": (TREES, FunctionalExecutor, "forward", "for a pass of 7 tokens after 0"),
    "eviction from it": (SCORED, Eviction, "start", "to evict from a prompt of 7 tokens"),
    "moving rows": (TREES, TreeCache, "commit", "to commit tokens after the first 0"),
    "eviction": (SCORED, ScoreEviction, "decide", "to commit tokens after the first "),
    "a shared cache": (SHARED, SharedSession, "_follow", "to commit tokens after the first 7"),
    "verification": (TREES, sampling, "likeliest_and_margins", "for a request of 7 prompt tokens"),
    "a larger slab": (WHOLE, Slabs, "take", "for a request of 7 prompt tokens"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_request_without_memory_says_what_to_lower(monkeypatch, place):
    options, owner, name, said = PLACES[place]
    made, honest = make(options), getattr(owner, name)

    def scarce(*given):
        fits = name == "take" and given[2] < slab.SMALLEST
        return honest(*given) if fits else full()

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, scarce)
        said = rf"^cpu has no memory left {said}.* 'it': use a shorter prompt, fewer nodes"
        with pytest.raises(NoMemoryError, match=said) as caught:
            made.generate(PROMPT, max_new_tokens=100)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert len(made.generate(PROMPT, max_new_tokens=100).token_ids) == 100  # the control


def test_a_plugin_that_takes_all_memory_is_named(monkeypatch):
    """And not what the toolkit was doing: the strategy's author can mend it."""

    def score(self, view):
        return full()

    made = make(SCORED)
    policy = made.kv.cls
    monkeypatch.setattr(policy, "score", score)
    with pytest.raises(NoMemoryError):  # of a policy that ships
        made.generate(PROMPT, max_new_tokens=100)
    monkeypatch.setattr(policy, "__module__", "strangers")
    with pytest.raises(StrategyError, match="KV policy 'h2o' failed in `"):
        made.generate(PROMPT, max_new_tokens=100)


@pytest.mark.parametrize(
    ("owner", "name"), [(FunctionalExecutor, "forward"), (static_step, "capture_step")]
)
def test_slabs_of_former_requests_make_room(monkeypatch, owner, name):
    """For a pass, its model's; for a step, those of both models. The first request outgrew a slab."""
    made, lacks = make(TREES), []
    expected = made.generate(PROMPT, max_new_tokens=100).token_ids
    honest = getattr(owner, name)

    def scarce(*given):
        models = [given[0]] if name == "forward" else [model.captured for model in given[0]]
        if any(not slab._held(each) for model in models for each in model.slabs._slabs):
            lacks.append(name)
            full()
        return honest(*given)

    monkeypatch.setattr(owner, name, scarce)
    found = Pipeline("it", pool=made.pool, ignore_eos=True, **WHOLE).generate(PROMPT, max_new_tokens=30)
    assert found.token_ids == expected[:30]
    assert "as one graph" in found.steps_run
    assert "capturing failed" not in found.steps_run
    assert lacks


def test_a_pass_of_a_cache_that_is_scored_is_tried_once(monkeypatch):
    """A second try would log the queries of the first once more."""
    made, tried = make(SCORED), []
    monkeypatch.setattr(FunctionalExecutor, "forward", lambda *_: full(tried.append(1)))
    with pytest.raises(NoMemoryError):
        made.generate(PROMPT)
    assert tried == [1]


def test_without_memory_for_a_whole_step_its_passes_run(monkeypatch):
    monkeypatch.setattr(static_step, "capture_step", full)
    found = make(WHOLE).generate(PROMPT, max_new_tokens=30)
    assert len(found.token_ids) == 30
    assert "because capturing failed: OutOfMemoryError: CUDA out of memory" in found.steps_run


@pytest.mark.parametrize("owner", [FunctionalExecutor, numerics], ids=["passes", "noise"])
def test_a_finished_result_needs_no_memory_for_its_level(monkeypatch, owner, own_cache):
    """What is said of it then is not on disk: the next process compares."""
    monkeypatch.setattr(numerics, "_reason_against_bitwise", lambda _: None)
    made = make()
    stream = made.stream(PROMPT, max_new_tokens=30)
    text = "".join(stream)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "forward" if owner is FunctionalExecutor else "_fill", full)
        found = stream.result
    assert (found.text, len(found.token_ids), found.numerics) == (text, 30, "fp32")
    level = numerics.find_level(made.pool.load("it"))
    assert level.why == "not bitwise: cpu has too little memory left to compare trees with AR"
    numerics._levels.clear()
    assert "too little memory" not in numerics.find_level(made.pool.load("it")).why
