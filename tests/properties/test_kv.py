"""KV policies: the same cache whatever the schedule, within the budget, protected rows kept."""

import copy
from functools import cache

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from toolkit import Pipeline, Pool, Registry, ScorePolicy
from toolkit.conformance import cases, kv
from toolkit.conformance.comparison import Broken
from toolkit.conformance.generators import passes, texts
from toolkit.conformance.models import FAMILIES, POSITIONS, VOCABULARY, tiny
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.compute.linears.kernels import Blocked, Packed, onednn_packs
from toolkit.runtime.kernels import native
from toolkit.runtime.models.load import prepare
from toolkit.runtime.numerics import find_level
from toolkit.runtime.session import ModelSession

REGISTRY = Registry.installed()
NAMES = REGISTRY.names("kv")
EVICTING = [n for n in NAMES if n != "full"]
SCORING = [n for n in NAMES if issubclass(REGISTRY.find("kv", n), ScorePolicy)]
EXECUTORS = st.sampled_from(["auto", "module"])


def hold_and_evict(holds, evicted):
    """The property holds where rows were evicted; if by chance no example did that, more are drawn."""
    for _ in range(4):
        holds()
        if any(evicted):
            return
    pytest.fail("inconclusive: nothing was evicted")


def session_of(family, choice, seed=0, executor="auto"):
    pool = Pool(modules={"it": tiny(family, seed)}, executor=executor)
    return lambda: ModelSession(pool.load("it"), choice.build())


def fitting(name):
    """Options of a policy and a family that it works on."""
    pairs = st.tuples(
        st.sampled_from(sorted(FAMILIES)), cases.options(REGISTRY.find("kv", name), REGISTRY)
    )
    return pairs.filter(lambda pair: cases.works_on(pair[1], pair[0]))


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_does_not_matter(name):
    evicted = []

    @settings(max_examples=2 * settings.default.max_examples)
    @given(fitting(name), EXECUTORS, texts(), passes())
    def holds(pair, executor, text, schedule):
        family, choice = pair
        make = session_of(family, choice, executor=executor)
        evicted.append(kv.schedule_does_not_matter(make, *text, schedule))

    if name in EVICTING:
        hold_and_evict(holds, evicted)
    else:
        holds()


@pytest.mark.parametrize("name", SCORING)
def test_budget_and_protected_rows(name):
    evicted = []

    @given(fitting(name), texts())
    def holds(pair, text):
        family, choice = pair
        evicted.append(kv.protected_rows_stay(session_of(family, choice)(), *text))

    hold_and_evict(holds, evicted)


@pytest.mark.parametrize("chunk", [3, 16])
@pytest.mark.parametrize("spec", ["window:5", "streaming:budget=6,sinks=2,epoch=4", "full"])
def test_a_prompt_in_chunks_is_a_prompt(monkeypatch, spec, chunk):
    """What a mask hides is the same however the prompt is cut."""
    make = session_of("llama", REGISTRY.resolve("kv", spec))
    ids = [i % 31 + 1 for i in range(40)]
    whole = make().prefill(ids)
    monkeypatch.setattr("toolkit.runtime.kv.eviction.CHUNK", chunk)
    torch.testing.assert_close(make().prefill(ids), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "phi"])
def test_sinks_that_follow_are_sinks_at_the_windows_edge(family):
    """At a boundary, what a first layer makes of a token under `positions=cache` is what it makes of
    sinks, window and token alone, at positions from 0: its keys lie at the same distances."""
    choice = REGISTRY.resolve("kv", "streaming:budget=8,sinks=2,positions=cache,epoch=4")
    session = session_of(family, choice)()
    text = [(7 * i) % 90 + 1 for i in range(30)]
    session.prefill(text[:20])
    alone = session_of(family, REGISTRY.resolve("kv", "full"))()
    alone.prefill([*text[:2], *text[15:20]])
    positions, ours, _ = session.cache.committed()[0]
    assert positions[0].tolist() == [0, 1, *range(15, 20)]
    theirs = alone.cache.committed()[0][1]
    moved = session.model.rotary.rotate(0, theirs, torch.full((7,), 15 - 2))
    torch.testing.assert_close(ours, moved, rtol=0, atol=1e-6)


def test_a_session_shared_with_a_target_that_re_indexes_agrees_with_it():
    """The target's sinks have moved, and the session takes them as they were written."""
    pool = Pool(modules={"tiny": tiny("llama", 1, ())})
    spec = "streaming:budget=24,sinks=4,epoch=8,positions=cache"
    for length in (20, 60, 100):
        prompt = [(7 * i * i) % 90 + 1 for i in range(length)]
        pipeline = Pipeline(
            "tiny", drafter=f"self:kv=[{spec}]", shaper="chain:k=4", kv=spec, pool=pool,
            registry=REGISTRY,
        )
        assert pipeline.generate(prompt, max_new_tokens=40).tau > 3


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_rotation_moves_a_key_to_its_position(family):
    """The first layer's key depends on token and position alone: one can be made of the other."""
    session = session_of(family, REGISTRY.resolve("kv", "full"))()
    session.prefill([7] * 60)
    positions, keys, _ = session.cache.committed()[0]
    moved = session.model.rotary.rotate(0, keys, positions[0, 3] - positions[0])
    assert len(positions[0]) > 5
    if family in ("gpt2", "opt"):
        assert torch.equal(moved, keys)
    else:
        assert not torch.allclose(moved, keys)
        torch.testing.assert_close(moved, keys[:, 3:4].expand_as(keys), rtol=0, atol=1e-5)


def test_text_may_outgrow_the_models_positions():
    """With positions=cache a rotary model reads on; keys stay within a constant number of rows."""
    choice = REGISTRY.resolve("kv", "streaming:budget=16,positions=cache,epoch=8")
    session = session_of("llama", choice)()
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (3 * POSITIONS,), generator=rng).tolist()
    session.prefill(ids[:POSITIONS])
    sizes = set()
    for token in ids[POSITIONS:]:
        logits = session.forward([token], [-1])
        session.commit([0])
        sizes.add(session.cache.bytes)
    assert session.length == 3 * POSITIONS
    assert len(sizes) == 1
    assert torch.isfinite(logits).all()


compiled = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")


PACKED = [dtype for dtype in (torch.float32, torch.bfloat16) if onednn_packs(dtype)]
KERNELS = st.sampled_from(  # with a dtype that they have on this CPU
    [(Blocked, torch.float32), (Blocked, torch.bfloat16), *((Packed, dtype) for dtype in PACKED)]
)


@cache
def low(family, dtype, kernel=Blocked):
    """A tiny model in low precision, at the level `bitwise`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastest, "fastest_kernel", lambda *_: kernel)
        model = prepare("it", copy.deepcopy(tiny(family)).to(dtype), owned=True)
        assert (model.executor.c_decoder is not None) == (kernel is Blocked)
    return model


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_gives_the_bits_of_ar(name):
    evicted = []

    @given(fitting(name), KERNELS, texts(), passes())
    def holds(pair, linears, text, schedule):
        (family, policy), (kernel, dtype) = pair, linears
        loaded = low("llama" if family == "phi" else family, dtype, kernel)
        assert find_level(loaded).name == "bitwise"
        evicted.append(
            kv.schedule_does_not_matter(
                lambda: ModelSession(loaded, policy.build()), *text, schedule, tolerance=0.0
            )
        )

    if name in EVICTING:
        hold_and_evict(holds, evicted)
    else:
        holds()


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_stock_attention_does_not(dtype):
    """The control: the same tests fail without the position-ordered kernel."""
    loaded, broken = low("llama", dtype), []
    policy = REGISTRY.resolve("kv", "full")

    @settings(max_examples=10)
    @given(texts(), passes())
    def tried(text, schedule):
        make = lambda: ModelSession(loaded, policy.build())  # noqa: E731
        try:
            with native.using(None):
                kv.schedule_does_not_matter(make, *text, schedule, tolerance=0.0)
        except Broken:
            broken.append(schedule)

    tried()
    assert broken
