"""Captured passes against passes layer by layer. Tapes stand in for CUDA graphs."""

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tape import Tape

from toolkit import Registry
from toolkit.conformance import cases
from toolkit.conformance.comparison import Broken, require_close, require_same_rows, snapshot
from toolkit.conformance.models import FAMILIES, tiny
from toolkit.conformance.properties import decoding
from toolkit.errors import ModelError
from toolkit.runtime import numerics
from toolkit.runtime.compute.executors import captured, choose_executor
from toolkit.runtime.compute.executors.captured import DEEPEST, ROWS, GraphInputs
from toolkit.runtime.compute.executors.graph_masks import GraphMasks
from toolkit.runtime.kernels import native
from toolkit.runtime.kv import slab
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

REGISTRY = Registry.installed()
PRODUCT = cases.product(REGISTRY)
TOKENS = [position % 90 + 1 for position in range(200)]


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    """Passes are captured; slabs and buckets are so small that requests outgrow them."""
    monkeypatch.setattr(slab, "SMALLEST", DEEPEST)
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    monkeypatch.setattr(choose_executor, "find_difference_of_graphs", lambda *_: None)


def model(family="llama", dtype=torch.float64):
    return prepare("it", copy.deepcopy(tiny(family)).to(dtype))


def layer_by_layer(family="llama"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured, "recorder_for", lambda _: None)
        made = model(family)
        assert made.executor.captured is None
    return made


def policy(spec="full"):
    return REGISTRY.resolve("kv", spec).build()


def opened(made, spec="full", prompt=20):
    session = ModelSession(made, policy(spec))
    session.prefill(TOKENS[:prompt])
    return session


def grow(sessions, rng, sizes):
    """Forward and commit the same random trees in several sessions; compare logits and cache rows."""
    for size in sizes:
        tokens = [rng.randrange(1, 97) for _ in range(size)]
        parents = [-1, *(rng.randrange(max(0, node - 6), node) for node in range(1, size))]
        ours, theirs = (session.forward(tokens, parents) for session in sessions)
        require_close(ours, theirs, f"logits of {size} nodes", 1e-9)
        path = [size - 1]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        path = path[: sessions[0].max_draft_depth + 1]
        for session in sessions:
            session.commit(path)
        require_same_rows(*(snapshot(session.cache) for session in sessions), f"after {size} nodes")


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "phi"])
def test_captured_is_layer_by_layer(family):
    """For trees of every bucket, on contexts that outgrow slabs and buckets."""
    made = model(family)
    ours = opened(made)
    grow([ours, opened(layer_by_layer(family))], random.Random(0), [1, 2, 7, 1, 13, 64, 5, 9])
    assert made.executor.failure is None
    assert ours.cache.graphs_captured > 5 or made.windows != (None, None)  # which hide nothing


@settings(max_examples=12)
@given(st.sampled_from(PRODUCT).flatmap(lambda names: cases.cases(REGISTRY, names)))
def test_any_strategies_decode_alike(case):
    """The same tokens, trees and cache rows as layer by layer, twice through one pipeline."""
    pipelines = [case.pipeline(REGISTRY)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured, "recorder_for", lambda _: None)
        pipelines.append(case.pipeline(REGISTRY))
        pipelines[1].load()
    for _ in range(2):
        ours, theirs = (decoding.decode(pipeline, case) for pipeline in pipelines)
        decoding._same_steps(ours, theirs, "captured", case)
        held = snapshot(ours.target.cache), snapshot(theirs.target.cache)
        require_same_rows(*held, f"captured, in {case}")


@pytest.mark.parametrize("spec", ["full", "window:budget=16", "h2o:budget=24,epoch=4,recent=8"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_pytorchs_attention_sees_the_same_rows(family, spec):
    """In some buckets, with ours in others."""
    made = model(family)
    made.executor.captured.stock_rows = frozenset(ROWS[::2])
    sessions = [opened(made, spec), opened(layer_by_layer(family), spec)]
    grow(sessions, random.Random(0), [1, 2, 7, 1, 13, 64, 5, 9])
    assert made.executor.captured.failure is None


@pytest.mark.parametrize("stock", [frozenset(), frozenset(ROWS)], ids=["ours", "PyTorch's"])
@pytest.mark.parametrize(
    "stale", ["first", "paths"], ids=["a length that is not read anew", "a path of another tree"]
)
def test_what_a_graph_does_not_read_anew_is_noticed(monkeypatch, stale, stock):
    """The control: a graph that has kept a value of the pass at which it was captured."""
    honest = getattr(GraphInputs, stale).fget
    monkeypatch.setattr(
        GraphInputs, stale, property(lambda self: torch.tensor(honest(self).tolist()))
    )
    made = model()
    made.executor.captured.stock_rows = stock
    with pytest.raises(Broken):
        grow([opened(made), opened(layer_by_layer())], random.Random(0), [3] * 8)


def test_one_graph_serves_every_length_within_a_bucket():
    made = model()
    session = opened(made, prompt=3)
    for _ in range(40):
        session.forward([5], [-1])
        session.commit([0])
    assert session.cache.graphs_captured == 1
    assert session.cache.layers[0].keys.shape[2] == DEEPEST


def test_graphs_outlive_their_request():
    made, counts = model(), []
    for _ in range(3):
        session = opened(made)
        session.forward(TOKENS[:4], [-1, 0, 0, 1])
        counts.append(session.cache.graphs_captured)
        del session
    assert counts == [1, 0, 0]


def test_requests_at_the_same_time_have_their_own_rows():
    made = model()
    grow([opened(made), opened(layer_by_layer())], random.Random(1), [3, 3])
    ours = [opened(made, prompt=20), opened(made, prompt=21)]
    theirs = [opened(layer_by_layer(), prompt=20), opened(layer_by_layer(), prompt=21)]
    for _ in range(3):
        for pair in zip(ours, theirs, strict=True):
            grow(pair, random.Random(2), [5])
    assert ours[0].cache.slab is not ours[1].cache.slab


def test_logits_stay_what_they_were():
    """They are no view of what the next pass writes."""
    session = opened(model())
    first = session.forward([5, 6], [-1, 0])
    kept = first.clone()
    session.forward([7, 8], [0, 0])
    assert torch.equal(first, kept)


def test_a_session_that_is_rewound():
    ours, theirs = opened(model()), opened(layer_by_layer())
    grow([ours, theirs], random.Random(3), [4, 4, 4])
    for session in (ours, theirs):
        assert session.rewind(15, policy())
        session.prefill(TOKENS[15:22])
    grow([ours, theirs], random.Random(4), [4, 1, 9])


POLICIES = [
    "window:budget=16",
    "streaming:budget=12,sinks=2",
    "streaming:budget=12,sinks=2,positions=cache",
    "h2o:budget=24,epoch=4,recent=8",
    "tova:budget=16,epoch=6,recent=4",
    "knorm:budget=16,epoch=4",
    "headaware:budget=16,epoch=4",
]


@pytest.mark.parametrize("spec", POLICIES)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_policies_hide_rows_from_graphs(family, spec):
    """Per-head tables, masks, logged queries, and layers that hold different numbers of rows."""
    made = model(family)
    session = opened(made, spec)
    grow(
        [session, opened(layer_by_layer(family), spec)],
        random.Random(0),
        [3, 1, 9, 2, 17, 5, 1, 70, 4, 4, 3, 8],
    )
    assert made.executor.captured.failure is None
    assert any(layout is not None for _, layout in session.cache.slab.graphs)
    assert not session.cache.captured  # these bits depend on when rows were dropped


@pytest.mark.parametrize("spec", ["window:budget=16", "h2o:budget=24,epoch=4,recent=8"])
def test_a_stale_mask_is_noticed(monkeypatch, spec):
    """The control."""
    monkeypatch.setattr(
        GraphMasks,
        "fill",
        lambda self, now, begin, honest=GraphMasks.fill: (
            None if any(part.any() for part in self.parts) else honest(self, now, begin)
        ),
    )
    with pytest.raises(Broken):
        grow([opened(model(), spec), opened(layer_by_layer(), spec)], random.Random(0), [3] * 12)


@pytest.mark.parametrize("size", [65, 64, 130])
def test_a_larger_tree_takes_several_graphs(size):
    session = opened(model())
    grow([session, opened(layer_by_layer())], random.Random(0), [size, 3])
    assert session.cache.captured


@pytest.mark.parametrize("row_multiple", [2, 4, 16])
def test_rows_are_padded_to_the_counts_that_keep_their_bits(row_multiple):
    made = model()
    made.executor.maps.rule.row_multiple = row_multiple
    session = opened(made)
    grow([session, opened(layer_by_layer())], random.Random(0), [1, 3, 9, 17])
    assert min(rows for rows, _ in session.cache.slab.graphs) == row_multiple


def test_the_level_of_a_request_says_whether_all_passes_were_captured(monkeypatch):
    made = model()
    monkeypatch.setitem(numerics._levels, made, {256: numerics.Level("bitwise", "said the test")})
    assert numerics.find_level(made, 20).name == "bitwise"
    level = numerics.find_level(made, 20, captured=False)
    assert (level.name, level.why) == (
        "fp32",
        "not bitwise: some passes hid rows or ran layer by layer",
    )


def test_paths_move_in_one_launch(monkeypatch):
    """As without kernels in C, which move rows on the CPU otherwise."""
    moves, honest = [], slab.move_path
    monkeypatch.setattr(slab, "move_path", lambda *given: (moves.append(given), honest(*given)))
    with native.using(None):
        for seed in range(3):
            grow([opened(model()), opened(layer_by_layer())], random.Random(seed), [9, 20, 5, 64])
    assert len(moves) >= 3


def test_what_cannot_be_captured_runs_layer_by_layer(monkeypatch):
    class Refuses(Tape):
        def record(self, run):
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(captured, "recorder_for", lambda _: Refuses())
    made = model()
    assert made.executor.why.endswith("64 rows run as CUDA graphs, with PyTorch's attention")
    grow([opened(made), opened(layer_by_layer())], random.Random(0), [3, 5])
    assert made.executor.why.endswith(
        "layer by layer, because capturing failed: RuntimeError: operation not permitted"
    )


def test_passes_are_captured_without_cudnn():
    """Whoever captures them: its plans are made by the host."""
    used = []

    class Notes(Tape):
        def record(self, run):
            used.append(torch.backends.cuda.cudnn_sdp_enabled())
            return super().record(run)

    made = model()
    made.executor.captured.recorder = Notes()
    assert torch.backends.cuda.cudnn_sdp_enabled()
    made.executor.captured.chain_graph([5])
    opened(made).forward([5], [-1])
    assert used == [False, False]


def test_a_capture_without_memory_frees_former_requests_and_else_says_so(monkeypatch):
    class Fails(Tape):
        left = 1

        def record(self, run):
            self.left -= 1
            if self.left >= 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().record(run)

    tape = Fails()
    monkeypatch.setattr(captured, "recorder_for", lambda _: tape)
    made = model()
    session = opened(made)
    session.forward([5], [-1])
    assert (made.executor.captured.failure, tape.left) == (None, -1)
    tape.left = 9
    with pytest.raises(ModelError, match="has no memory left"):
        session.forward([5] * 20, [0] * 20)  # of another bucket


def test_only_layers_of_one_shape_share_a_slab():
    made = model()
    decoder = made.executor.decoder
    odd = copy.copy(decoder.layers[1].attention)
    object.__setattr__(odd, "kv_heads", 1)
    other = copy.copy(decoder.layers[1])
    object.__setattr__(other, "attention", odd)
    changed = copy.copy(decoder)
    object.__setattr__(changed, "layers", (decoder.layers[0], other))
    assert captured.Captured.of(changed, made.executor.maps, torch.device("cpu")) is None


def test_every_count_of_rows_has_a_bucket():
    assert ROWS[-1] == DEEPEST == 64
