"""The kernel whose whole passes are fastest is chosen among those that are batch-invariant."""

import copy
import itertools

import pytest
import torch
from tape import Tape

from toolkit.conformance.models import tiny
from toolkit.runtime.compute.executors import captured, fastest
from toolkit.runtime.compute.executors.choose_executor import make_functional
from toolkit.runtime.compute.executors.compare_logits import chain_pass
from toolkit.runtime.compute.executors.fastest import TrialLinears, fastest_kernel, least_seconds
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.compute.linears.kernels import Blocked, Packed, Stock
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kernels import native
from toolkit.runtime.kernels.triton.jit import TritonError
from toolkit.runtime.kernels.triton.linear import SkinnyLinear
from toolkit.runtime.machine import remembered
from toolkit.runtime.machine.disk import cache_folder
from toolkit.runtime.models.supported import windows_of

pytestmark = pytest.mark.usefixtures("own_cache")
compiled = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")


def llama():
    module = copy.deepcopy(tiny("llama")).float()
    return module, windows_of(module.config), True


class Timed:
    load = None
    calls = 0

    def __init__(self, took=(1, 2, 3), multiples=(1, 1, 1), ruled=None):
        self.took, self.multiples = by_kernel(took), by_kernel(multiples)
        self.ruled = by_kernel(ruled or took)  # when some have rules

    def seconds(self, executors, _):
        self.calls += 1
        ruled = any(each.maps.rule.row_multiple > 1 for each in executors.values())
        took = self.ruled if ruled else self.took
        return {kernel: took[kernel] for kernel in executors}

    def set_rule(self, linears):
        multiple = self.multiples[linears.kernel]
        linears.rule.row_multiple = multiple or 1
        return multiple is not None


def by_kernel(values):
    return dict(zip((Stock, Packed, Blocked), values, strict=True))


@pytest.fixture
def timed(monkeypatch):
    """Sets invented seconds, rules and load."""

    def use(*invented):
        made = Timed(*invented)
        monkeypatch.setattr(fastest, "least_seconds", made.seconds)
        monkeypatch.setattr(fastest, "busy_load", lambda _: made.load)
        monkeypatch.setattr(TrialLinears, "set_rule", lambda linears, _: made.set_rule(linears))
        return made

    return use


@compiled
@pytest.mark.parametrize(
    ("took", "multiples", "ruled", "chosen"),
    [
        ((1, 2, 3), (1, 1, 1), None, Stock),
        ((3, 1, 2), (1, 1, 1), None, Packed),
        ((1, 2, 3), (None, None, 1), None, Blocked),
        ((1, 2, 3), (None, None, None), None, Stock),
        ((1, 2, 3), (16, 1, 1), (4, 2, 3), Packed),  # 16 rows for one take longer
        ((1, 2, 3), (2, 1, 1), (1.5, 2, 3), Stock),
        ((1, 2, 3), (2, 16, None), (3, 2.5, 0), Packed),
    ],
)
def test_the_fastest_kernel_is_chosen_among_the_batch_invariant(
    timed, took, multiples, ruled, chosen
):
    timed(took, multiples, ruled)
    assert fastest_kernel(*llama()) is chosen


@compiled
def test_what_was_timed_on_a_quiet_machine_is_kept(timed, caplog):
    it = timed()
    assert fastest_kernel(*llama()) is Stock
    it.took = by_kernel((3, 2, 1))
    assert fastest_kernel(*llama()) is Stock
    assert it.calls == 1
    assert caplog.messages == []


@compiled
def test_what_was_timed_on_a_busy_machine_is_used_and_not_kept(timed, caplog, monkeypatch):
    """The wrong choice of a busy moment holds for its process; the next one on a quiet machine finds
    the right one, and keeps it."""
    it, known = timed(), {}
    monkeypatch.setattr("toolkit.runtime.machine.remembered._of_this_process", known)
    it.load = 0.9
    assert fastest_kernel(*llama()) is fastest_kernel(*llama()) is Stock
    assert it.calls == remembered.TRIES
    assert list(cache_folder("checks").iterdir()) == []
    assert [line.split(":")[0] for line in caplog.messages] == [
        "The machine was busy while it was measured (other processes used 90% of the CPU)"
    ]
    known.clear()  # another process
    it.load, it.took = None, by_kernel((3, 2, 1))
    assert fastest_kernel(*llama()) is Blocked
    known.clear()
    assert fastest_kernel(*llama()) is Blocked
    assert it.calls == remembered.TRIES + 1


def test_kernels_take_turns_and_their_least_times_add_up(monkeypatch):
    """Over passes; what disturbs one turn does not count."""
    turns, clock = [], itertools.cycle([3.0, 4.0, 1.0, 2.0, 5.0, 6.0, 9.0, 1.5])
    monkeypatch.setattr(fastest, "TURNS", range(2, 6))
    monkeypatch.setattr(fastest, "ENOUGH", 600.0)
    monkeypatch.setattr(fastest, "_timed", lambda *timed: (turns.append(timed), next(clock))[1])
    took = least_seconds({Stock: "stock", Packed: "packed"}, ["short", "long"])
    assert took == {Stock: 3.0 + 4.0, Packed: 1.0 + 1.5}
    each = [("stock", "short"), ("stock", "long"), ("packed", "short"), ("packed", "long")]
    assert turns == each * 6


def test_every_kernel_has_its_least_turns_however_long_they_take(monkeypatch):
    turns = []
    monkeypatch.setattr(fastest, "ENOUGH", 0.0)
    monkeypatch.setattr(fastest, "_timed", lambda *timed: (turns.append(timed), 1.0)[1])
    least_seconds({Stock: "stock"}, ["short"])
    assert turns == [("stock", "short")] * fastest.TURNS.start


def test_what_the_first_turn_prepares_leaves_time_for_others(monkeypatch):
    """As graphs that are captured once, which takes longer than all replays."""
    now = [0.0]
    monkeypatch.setattr(fastest, "perf_counter", lambda: now[0])

    def run():
        now[0] += 100.0 if now == [0.0] else 0.1
        return 1.0

    fastest.take_turns({"it": run})
    assert 100.0 + fastest.ENOUGH < now[0] < 101.0


@compiled
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("kernel", [Stock, Packed, Blocked])
def test_a_trial_runs_the_executor_that_will_run_the_model(family, owned, kernel, monkeypatch):
    """In C or layer by layer, with linears of the same kinds; and the module keeps its weights."""
    seen = {}

    def seconds(trials, _):
        seen.update(trials)
        return {trial: 1.0 + (trial is not kernel) for trial in trials}

    monkeypatch.setattr(fastest, "least_seconds", seconds)
    monkeypatch.setattr(TrialLinears, "set_rule", lambda *_: True)
    module = copy.deepcopy(tiny(family)).float()
    before = [weight.clone() for weight in module.parameters()]
    windows = windows_of(module.config)
    assert fastest_kernel(module, windows, owned) is kernel
    assert all(map(torch.equal, before, module.parameters()))
    trial, real = seen[kernel], make_functional(module, windows, owned)
    assert (trial.c_decoder is None) is (real.c_decoder is None) is (kernel is not Blocked)
    assert kinds(trial.maps) == kinds(real.maps)


def kinds(linears: Linears):
    return {part.kind for made in linears.functions for part in made.parts}


def test_a_captured_pass_is_timed_as_a_graph(monkeypatch):
    """Captured once, and replayed each time."""
    tape, captures, replays = Tape(), [], []

    class Counts(Tape):
        def record(self, run):
            captures.append(run)
            replay, logits = tape.record(run)
            return lambda: (replays.append(1), replay())[1], logits

    monkeypatch.setattr(captured, "recorder_for", lambda _: Counts())
    module = copy.deepcopy(tiny("llama")).double()  # whose operations are PyTorch's, as tapes need
    windows = windows_of(module.config)
    executor = FunctionalExecutor.of(module, windows, Linears(owned=False))
    now = chain_pass(module, windows, [5, 7, 9])
    expected = executor.forward(now)
    assert replays == []  # that pass was layer by layer
    assert min(fastest._timed(executor, now) for _ in range(3)) > 0
    assert (len(replays), len(captures)) == (3, 1)
    graph = executor.captured.chain_graph(now.host.tokens)
    torch.testing.assert_close(graph.logits[:3], expected, rtol=1e-9, atol=1e-9)
    executor.maps.rule.row_multiple = 16  # then more rows are computed, and the pass is another
    fastest._timed(executor, now)
    assert len(captures) == 2
    assert len(executor.captured.chain_graph(now.host.tokens).logits) == 16


def test_results_about_a_gpu_hold_for_the_kernels_that_run_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")

    class OnGpu:
        device, dtype, config = torch.device("cuda:0"), torch.bfloat16, tiny("llama").config

        def get_input_embeddings(self):
            return torch.nn.Embedding(1, 1)

    keys = set()
    for version, runs in (("3.5", True), ("3.6", True), ("3.6", False)):
        monkeypatch.setattr(fastest.jit, "version", version)
        monkeypatch.setattr(fastest.jit, "runs", lambda _, runs=runs: runs)
        keys.add(fastest.module_key(OnGpu()))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keys.add(fastest.module_key(OnGpu()))
    assert len(keys) == 4


def test_a_kernel_that_does_not_fit_on_a_gpu_is_left_out(monkeypatch):
    """As for 17 to 32 rows on an MI300, which has 64 KiB of shared memory."""
    module = copy.deepcopy(tiny("llama")).float()
    monkeypatch.setattr(fastest, "kernels_for", lambda _: [Stock, SkinnyLinear])
    monkeypatch.setattr(fastest, "least_seconds", lambda executors, _: dict.fromkeys(executors, 1.0))
    tried, honest = [], SkinnyLinear.__call__

    def cramped(self, x, act=None):
        tried.append(len(x))
        if len(x) > 16:
            raise TritonError("out of resource: shared memory, Required: 73728")
        return honest(self, x, act)

    monkeypatch.setattr(SkinnyLinear, "__call__", cramped)
    found = fastest._find_fastest(module, windows_of(module.config), owned=False)
    assert found["kernel"] == Stock.name
    assert max(tried) > 16
