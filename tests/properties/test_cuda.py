"""The promise on a GPU: `pytest -m cuda`, or `python -P -m pytest -m cuda`: without `-P` Python finds
the checkout's `toolkit`, not the installed one. TOOLKIT_TEST_DEVICE=cpu tries these without a GPU.
"""

import copy
import os
import warnings
from functools import lru_cache
from itertools import cycle
from time import perf_counter, sleep

import pytest
import torch

from toolkit import Pipeline, Pool, Registry, Sampling, verify
from toolkit.choice import options_of
from toolkit.conformance import cases, check, under_test
from toolkit.conformance.comparison import require_same_rows, snapshot
from toolkit.conformance.models import FAMILIES, noisy, tiny
from toolkit.conformance.under_test import count_hidden
from toolkit.exactness import compare_with_ar
from toolkit.interfaces import TOKEN_IDENTICAL, TreeShaper
from toolkit.runtime.compute.executors.captured import ROWS

DEVICE = os.environ.get("TOOLKIT_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU here"
    ),
    pytest.mark.filterwarnings("default"),  # the libraries of that machine are others
]
PROMPT = "The old sailor looked at the sea and"
DTYPES = ["fp32", "bf16", "fp16"]
SAMPLING = Sampling(0.8, top_p=0.9)
SMALL = {"budget": 32, "recent": 8, "epoch": 8}  # of KV policies, so that they hide rows
SPECS = ["model", "slots", "traversal", "window:budget=8", "h2o:budget=16,recent=4,epoch=4"]
EXAMPLES = {"quick": 2, "thorough": 20, "nightly": 60}  # each records graphs of its own

REGISTRY = Registry.installed()
VERIFIERS = {name: REGISTRY.find("verifier", name).exactness for name in REGISTRY.names("verifier")}
WHOLE = [
    {"drafter": "none"},
    *({"drafter": "model", "shaper": s} for s in ("chain:k=4", "fixed:threshold=0", "growmap")),
]


def arms():
    """Every registered drafter, shaper and KV policy, each in one dtype, the dtypes in turn."""
    for kind in ("drafter", "shaper", "kv"):
        for name, dtype in zip(REGISTRY.names(kind), cycle(DTYPES), strict=False):
            known = {option.name for option in options_of(REGISTRY.find(kind, name))}
            given = [f"{option}={value}" for option, value in SMALL.items() if option in known]
            spec = f"{name}:{','.join(given)}" if kind == "kv" and given else name
            yield {"drafter": "model", kind: spec}, dtype


@lru_cache
def pool(dtype, executor="auto", device=DEVICE):
    return Pool(device=device, dtype=dtype, executor=executor)


def placed(make, dtype=torch.float32):
    """`make`'s models on the device."""
    return lru_cache(lambda *args: copy.deepcopy(make(*args)).to(DEVICE, dtype))


def require_ars_tokens(generation, found):
    equal = ("exact",) if generation.numerics in ("bitwise", "fp32") else ("exact", "tie")
    assert found.verdict in equal, found


@pytest.mark.parametrize(("arm", "dtype"), [*arms()], ids=str)
def test_every_strategy_gives_the_tokens_of_ar(arm, dtype):
    pipeline = Pipeline(**arm, pool=pool(dtype), ignore_eos=True)
    stream = pipeline.stream(" ".join([PROMPT] * 4), max_new_tokens=48)
    assert list(stream.decode())
    assert (count_hidden(stream) > 0) == (arm.get("kv", "full") != "full")
    found = verify(pipeline, stream.result)
    if found.verdict != "inconclusive":
        require_ars_tokens(stream.result, found)
        assert stream.result.tau > 1
    else:  # a shaper that plans by costs may find that drafts do not pay here
        assert arm["drafter"] == "none" or pipeline.shaper.cls.plan is not TreeShaper.plan


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("verifier", [name for name in VERIFIERS if VERIFIERS[name] != "greedy"])
def test_a_verifier_draws_the_same_tokens_again(verifier, dtype):
    """In fp32 on the CPU, too. Those of AR, if it promises them."""
    tokens = []
    for each in (pool(dtype), pool(dtype, device="cpu" if dtype == "fp32" else DEVICE)):
        pipeline = Pipeline(drafter="model", verifier=verifier, sampling=SAMPLING, pool=each)
        generation = pipeline.generate(PROMPT, max_new_tokens=48, seed=3)
        tokens.append(generation.token_ids)
        assert generation.tau > 1
        if VERIFIERS[verifier] in TOKEN_IDENTICAL:
            require_ars_tokens(generation, verify(pipeline, generation))
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arm", WHOLE, ids=str)
def test_whole_steps_give_the_tokens_of_ar(arm, dtype):
    """Which is decoded pass by pass."""
    pipeline = Pipeline(**arm, pool=pool(dtype))
    for text in (PROMPT, "Once upon a time", PROMPT):  # graphs are captured and used again
        generation = pipeline.generate(text, max_new_tokens=48)
        found = compare_with_ar(pipeline, generation.prompt_ids, generation.token_ids)
        require_ars_tokens(generation, found)
        if DEVICE != "cpu":
            assert generation.steps_run.partition(" ")[0] not in ("0", "pass"), generation.steps_run


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing is captured on the CPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arm", [WHOLE[3], {"drafter": "model", "kv": "window:budget=32"}], ids=str)
def test_graphs_with_pytorchs_attention_give_the_tokens_of_ar(arm, dtype):
    """Start-up may choose it; here it is set for all rows, whatever its bits."""
    pipeline = Pipeline(**arm, pool=Pool(device=DEVICE, dtype=dtype))
    for name in pipeline.models:
        pipeline.pool.load(name).executor.captured.stock_rows = frozenset(ROWS)
    found = verify(pipeline, pipeline.generate(PROMPT, max_new_tokens=48))
    assert found.verdict in ("exact", "tie")


@pytest.mark.parametrize("arm", WHOLE, ids=str)
def test_whole_steps_are_the_general_loop_s(arm):
    trees = []
    for executor in ("functional", "auto"):
        pipeline = Pipeline(**arm, pool=pool("fp32", executor))
        events = pipeline.generate(PROMPT, max_new_tokens=48).events[1:]
        trees.append([(e.tokens, e.tree.tokens, e.tree.parents, e.verdict.path) for e in events])
    assert trees[0] == trees[1]


@pytest.mark.parametrize("arm", WHOLE, ids=str)
def test_a_step_that_began_ahead_is_dropped_where_the_request_ends(arm):
    """Rows and tokens stay, of this request and of those after it; so if somebody breaks it off."""
    pipeline, general = both = [Pipeline(**arm, pool=pool("fp32", e)) for e in ("auto", "functional")]
    ahead = []
    tokens = general.generate(PROMPT, max_new_tokens=48).token_ids
    for stop in dict.fromkeys(tokens[8:16]):
        streams = [each.stream(PROMPT, max_new_tokens=48, stop_ids=[stop]) for each in both]
        ids = [[t for event in stream.decode() for t in event.tokens] for stream in streams]
        assert ids[0] == ids[1] == tokens[: len(ids[0])]
        ahead.append("ahead of the host" in streams[0].result.steps_run)
        rows = [snapshot(stream.target.cache) for stream in streams]
        require_same_rows(*rows, "after a step was dropped", 1e-3)
        prompt = [*streams[0].prompt, *ids[0], *tokens[:3]]
        wanted = general.generate(prompt, max_new_tokens=24).token_ids
        after = pipeline.stream(prompt, max_new_tokens=24, after=streams[0])
        assert [t for event in after.decode() for t in event.tokens] == wanted
        broken_off = pipeline.stream(PROMPT, max_new_tokens=48).decode()
        assert [t for _, event in zip(range(5), broken_off, strict=False) for t in event.tokens]
        broken_off.close()
        assert pipeline.generate(prompt, max_new_tokens=24).token_ids == wanted
    assert DEVICE == "cpu" or any(ahead)


@pytest.mark.skipif(DEVICE == "cpu", reason="the CPU runs nothing ahead")
@pytest.mark.parametrize("arm", WHOLE, ids=str)
def test_times_of_steps_add_up_to_the_clock_s(arm):
    """Also where somebody takes their time between steps: then the device's own time counts."""
    pipeline = Pipeline(**arm, pool=pool("bf16"), ignore_eos=True)
    means = []
    for pause in (0.0, 0.0, 0.02):  # graphs are captured in the first
        began, found = perf_counter(), []
        for event in pipeline.stream(PROMPT, max_new_tokens=96).decode():
            began = perf_counter() if not found else began
            found.append(event)
            sleep(pause)
        took = 1e3 * (perf_counter() - began)
        total = sum(event.step.total_ms for event in found[1:])
        assert total <= took
        assert pause or total >= 0.5 * took  # the rest passes between steps, which are short here
        means.append(sorted(event.step.total_ms for event in found[1:])[len(found) // 2])
    assert 0.5 * means[1] <= means[2] < 10  # of the 20 ms: a GPU that waits lowers its clock


@pytest.mark.parametrize(
    ("family", "executor"), [*((family, "auto") for family in FAMILIES), ("llama", "module")]
)
def test_every_family_and_executor(family, executor):
    modules = {"it": placed(tiny)(family), "draft": placed(noisy)(family)}
    pipeline = Pipeline("it", drafter="model:draft", pool=Pool(modules=modules, executor=executor))
    generation = pipeline.generate([5, 60, 7, 33, 81, 2], max_new_tokens=24)
    assert verify(pipeline, generation).verdict == "exact"


@pytest.mark.parametrize("spec", SPECS)
def test_the_conformance_kit_on_the_device(spec, monkeypatch):
    for module in (cases, under_test):
        monkeypatch.setattr(module, "tiny", placed(tiny))
        monkeypatch.setattr(module, "noisy", placed(noisy))
    examples = EXAMPLES[os.environ.get("TOOLKIT_PROFILE", "quick")]
    kind = "drafter" if spec == "model" else None
    for finding in check(spec, kind=kind, max_examples=examples):
        assert finding.outcome != "fail", f"{finding.name}\n{finding.details}"


def test_two_requests_share_a_model_and_its_graphs():
    pipeline = Pipeline(drafter="model", pool=pool("fp32"))
    alone = [pipeline.generate(text, max_new_tokens=24).token_ids for text in (PROMPT, "Once")]
    streams = [pipeline.stream(text, max_new_tokens=24) for text in (PROMPT, "Once")]
    runs, together = [stream.decode() for stream in streams], [[], []]
    while runs != [None, None]:
        for index, run in enumerate(runs):
            event = None if run is None else next(run, None)
            together[index] += [] if event is None else event.tokens
            runs[index] = None if event is None else run
    assert together == alone


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing is captured on the CPU")
def test_graphs_are_captured_after_all_were_freed():
    """PyTorch refuses the memory pool that they had."""
    pipeline = Pipeline(drafter="none", pool=Pool(device=DEVICE, dtype="bf16"))
    tokens = pipeline.generate(PROMPT, max_new_tokens=16).token_ids
    captured = pipeline.pool.load(pipeline.target).executor.captured
    pipeline = Pipeline(drafter="none", pool=pipeline.pool)
    captured.slabs.forget()
    again = pipeline.generate(PROMPT, max_new_tokens=16)
    assert again.token_ids == tokens
    assert again.graphs_captured > 0
    assert captured.failure is None


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU here")
def test_kernels_run_on_the_gpu_of_their_tensors():
    """The second one, while the first is and stays the current one."""
    tokens = Pipeline(drafter="model", pool=pool("fp32")).generate(PROMPT, max_new_tokens=24).token_ids
    second = Pipeline(drafter="model", pool=Pool(device="cuda:1", dtype="fp32"))
    assert second.generate(PROMPT, max_new_tokens=24).token_ids == tokens
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("verifier", ["greedy", "swor"])
@pytest.mark.parametrize("where", ["cpu", "cuda:1"])
def test_a_drafter_on_another_device_than_its_target(where, verifier):
    """Also where laws of both are compared."""
    if where == "cuda:1" and torch.cuda.device_count() < 2:
        pytest.skip("there is no second GPU here")
    modules = {"it": placed(tiny)("llama"), "draft": copy.deepcopy(noisy("llama")).to(where)}
    drawn = {"verifier": verifier, "sampling": Sampling(0.8)} if verifier != "greedy" else {}
    pipeline = Pipeline("it", drafter="model:draft", pool=Pool(modules=modules), **drawn)
    generation = pipeline.generate([5, 60, 7, 33, 81, 2], max_new_tokens=24)
    assert generation.tau > 1
    assert drawn or verify(pipeline, generation).verdict == "exact"


@pytest.mark.skipif(DEVICE == "cpu", reason="the CPU is never waited for")
@pytest.mark.parametrize(
    ("arm", "executor"), [(WHOLE[1], "functional"), *((arm, "auto") for arm in WHOLE)], ids=str
)
def test_a_step_waits_for_the_device_a_few_times(arm, executor):
    """At most twice for a verification, once for each level of the drafter. For a whole step it waits
    once, for an event, which is no wait for all that the device has to do."""
    pipeline = Pipeline(**arm, pool=pool("bf16", executor))
    events = pipeline.stream(PROMPT, max_new_tokens=192).decode()
    for _ in range(8):  # graphs are captured and kernels compiled in these
        next(events)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            steps = [event.step for _, event in zip(range(8), events, strict=False)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    allowed = sum(0 if executor == "auto" else 2 + step.depth + 1 for step in steps)
    places = sorted(f"{wait.filename}:{wait.lineno}" for wait in waits)
    assert len(waits) <= allowed, places
