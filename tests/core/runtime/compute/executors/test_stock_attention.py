"""Graphs hold the faster attention where it costs no bits. Tapes stand in for CUDA graphs, so ours is
its plain form; times are invented."""

import copy

import pytest
import torch
from tape import Tape

from toolkit.conformance.models import tiny
from toolkit.runtime.compute.attention import masked_attention
from toolkit.runtime.compute.executors import captured, choose_executor, stock_attention
from toolkit.runtime.compute.executors.captured import ROWS
from toolkit.runtime.compute.executors.fastest import take_turns
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.machine import disk
from toolkit.runtime.models.load import prepare

pytestmark = pytest.mark.usefixtures("own_cache")
FASTER = {rows: 1.0 if rows in (1, 64) else 2.1 for rows in ROWS}  # than 2 in sum, not everywhere
SLOWER = {rows: 1.0 if rows in (1, 64) else 3.0 for rows in ROWS}


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    monkeypatch.setattr(captured, "runs", lambda _: True)


@pytest.fixture
def timed(monkeypatch):
    """Sets PyTorch's seconds where ours takes 2, and whether linears and PyTorch's attention keep bits;
    returns what was timed."""
    calls = []

    def use(stock, *, linears=False, attention=False):
        def take_turns(given):
            calls.append(set(given))
            return {(rows, of_stock): stock[rows] if of_stock else 2.0 for rows, of_stock in given}

        monkeypatch.setattr(stock_attention, "take_turns", take_turns)
        monkeypatch.setattr(stock_attention, "keeps_bits", lambda _: attention)
        monkeypatch.setattr(Linears, "set_rule", lambda *_: linears)
        return calls

    return use


def model(family="llama", dtype=torch.float64):
    return prepare("it", copy.deepcopy(tiny(family)).to(dtype)).executor


def test_without_bits_to_lose_each_bucket_has_the_faster_attention(timed):
    """And the choice is remembered."""
    calls = timed(SLOWER)
    executor = model()
    assert executor.captured.stock_rows == {1, 64}
    assert executor.why.endswith("with our attention, but PyTorch's for 1, 64 rows")
    assert calls == [{(rows, stock) for rows in ROWS for stock in (False, True)}]
    assert model().captured.stock_rows == {1, 64}
    assert len(calls) == 1


@pytest.mark.parametrize(("seconds", "chosen"), [(FASTER, {*ROWS}), (SLOWER, set())])
def test_with_bits_to_keep_all_rows_have_one_attention(timed, seconds, chosen):
    timed(seconds, linears=True, attention=True)
    assert model().captured.stock_rows == chosen


def test_bits_are_never_lost_for_speed(timed):
    """Where linears keep them and PyTorch's attention does not, nothing is timed."""
    calls = timed(FASTER, linears=True)
    executor = model()
    assert executor.batch_invariant
    assert executor.captured.stock_rows == frozenset()
    assert executor.why.endswith("run as CUDA graphs, with our attention")
    assert calls == []


def rounded_once(query, keys, values, mask, config):
    """Attention whose order of summation does not show."""
    wide = masked_attention(query.double(), keys.double(), values.double(), mask, config)
    return wide.to(query.dtype)


@pytest.mark.parametrize("keeps", [True, False])
def test_bits_of_attention_are_compared_with_ars(monkeypatch, keeps):
    """PyTorch's, on a CPU, sums in the order of the slab."""
    made = model(dtype=torch.float64).captured
    made.slabs.dtype = torch.float32
    if keeps:
        monkeypatch.setattr(stock_attention, "masked_attention", rounded_once)
    assert stock_attention.keeps_bits(made) is keeps


@pytest.mark.parametrize("break_in", [1, 16, 64])
def test_one_bucket_that_loses_bits_is_found(monkeypatch, break_in):
    """By one unit in the last place of one number."""
    made = model(dtype=torch.float64).captured
    made.slabs.dtype = torch.float32

    def breaks(query, *others):
        out = rounded_once(query, *others)
        if len(query) == break_in and others[0].shape[1] > 1024:  # trees, not AR's rows
            out[len(out) // 2, 5] *= 1 + 2**-22
        return out

    monkeypatch.setattr(stock_attention, "masked_attention", breaks)
    assert not stock_attention.keeps_bits(made)


def test_nothing_is_timed_where_ours_cannot_run(timed, monkeypatch):
    """Where every layer caps its scores, and without Triton."""
    calls = timed(FASTER)
    assert model("gemma2").captured.stock_rows == frozenset()
    monkeypatch.setattr(captured, "runs", lambda _: False)
    executor = model()
    assert executor.captured.stock_rows == frozenset()
    assert executor.why.endswith("with PyTorch's attention")
    assert calls == []


class Refuses(Tape):
    def record(self, run):
        raise RuntimeError("operation not permitted when stream is capturing")


def test_what_cannot_be_captured_is_not_used(monkeypatch):
    monkeypatch.setattr(captured, "recorder_for", lambda _: Refuses())
    monkeypatch.setattr(Linears, "set_rule", lambda *_: False)
    assert model().captured.stock_rows == frozenset()


@pytest.mark.parametrize("linears", [False, True])
def test_pytorchs_attention_is_used_where_ours_cannot_be_captured(timed, monkeypatch, linears):
    """As where a GPU has too little shared memory for it."""

    def fails(*_, **__):
        raise RuntimeError("out of resource: shared memory")

    timed(FASTER, linears=linears, attention=True)
    monkeypatch.setattr(stock_attention, "take_turns", take_turns)
    monkeypatch.setattr(captured, "tree_attention", fails)
    made = model().captured
    assert made.stock_rows == {*ROWS}
    assert made.failure is None


def test_only_buckets_that_passes_use_are_timed(timed, monkeypatch):
    """Not those of fewer rows than linears need."""
    calls = timed(FASTER, linears=True, attention=True)
    monkeypatch.setattr(Linears, "set_rule", lambda it, _: setattr(it.rule, "row_multiple", 16) or True)
    assert model().captured.stock_rows == {16, 32, 64}
    assert {rows for rows, _ in calls[0]} == {16, 32, 64}


def test_a_lack_of_memory_does_not_free_the_slab_that_a_chain_is_captured_over(monkeypatch):
    """Its replays would write to memory that is somebody else's by then."""

    class Fails(Tape):
        left = 1

        def record(self, run):
            self.left -= 1
            if self.left == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().record(run)

    made = model().captured
    made.recorder = Fails()
    graph = made.chain_graph([5], 100)
    assert made.recorder.left < 0
    assert any(graph is each for slab in made.slabs._slabs for each in slab.graphs.values())


def test_without_memory_nothing_is_timed_or_remembered(timed, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    calls = timed(SLOWER)
    with monkeypatch.context() as patch:
        patch.setattr(captured.Slabs, "take", full)
        patch.setattr(stock_attention, "take_turns", take_turns)
        assert model().captured.stock_rows == frozenset()
    assert model().captured.stock_rows == {1, 64}
    assert len(calls) == 1


def test_what_cannot_be_compared_does_not_stop_a_model_from_loading(timed, monkeypatch, caplog):
    def fail(_):
        raise RuntimeError("no kernel image is available")

    calls = timed(FASTER, linears=True)
    monkeypatch.setattr(stock_attention, "keeps_bits", fail)
    monkeypatch.setattr(disk, "_said", {})
    assert model().captured.stock_rows == frozenset()
    assert calls == []
    assert "was not compared with ours: no kernel image is available" in caplog.text


def test_in_float16_graphs_hold_ours(timed):
    """A rejected draft may have overflowed there."""
    timed(FASTER)
    made = model().captured
    for dtype, chosen in ((torch.float32, {1, 64}), (torch.float16, set())):
        made.slabs.dtype = dtype
        found = stock_attention.find_stock_rows(made, ("it", str(dtype)), keep_bits=False)
        assert found == chosen


def test_passes_are_timed_with_either_attention(monkeypatch):
    """Each in a slab that is half full, which is freed after it."""
    monkeypatch.setattr(Linears, "set_rule", lambda *_: False)
    ran, honest = [], captured.masked_attention

    def noting(query, keys, values, mask, config):
        ran.append((len(query), keys.shape[1], int(mask[0].sum())))
        return honest(query, keys, values, mask, config)

    monkeypatch.setattr(captured, "masked_attention", noting)
    monkeypatch.setattr(choose_executor, "find_difference_of_graphs", lambda *_: None)
    made = model().captured
    assert {*ran} == {(rows, 1024, 513) for rows in ROWS}
    assert made.stock_rows <= {*ROWS}
    assert (made.failure, made.slabs._slabs) == (None, [])
