"""What a step waits for on a GPU, counted on the CPU: reads of a tensor's values, by who makes them."""

import copy
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tape import Tape
from torch.utils._python_dispatch import TorchDispatchMode

import toolkit
from toolkit import Pipeline, Pool, Registry
from toolkit.conformance.models import COSTS, noisy, tiny
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.compute.executors.captured import GraphInputs
from toolkit.runtime.kernels import native
from toolkit.sampling import Sampler

REGISTRY = Registry.installed()
ROOT = Path(toolkit.__file__).parents[1]
OURS = ("toolkit", "strategies", "kvcache")
NAMED = {
    "toolkit/likeliest.py:likeliest": "what a level proposes, after one copy",
    "toolkit/likeliest.py:likeliest_and_margins": "what a verifier reads, after one copy",
    "toolkit/likeliest.py:margin": "after a pass; on a GPU `likeliest` has it already",
    "toolkit/runtime/step_graph.py:of": "what a whole step found, after one copy",
    "toolkit/runtime/compute/executors/captured.py:fill": "of tensors that are on the host",
}
READS = ("tolist", "item", "__int__", "__bool__", "__float__", "__index__", "nonzero", "cpu")


def reader():
    """The function of ours that is being run, as file:name, and whether a policy is deciding."""
    frame, first, names = sys._getframe(2), None, []
    while frame:
        path = Path(frame.f_code.co_filename)
        if any(path.is_relative_to(ROOT / room) for room in OURS):  # not tests, not a .venv
            first = first or f"{path.relative_to(ROOT)}:{frame.f_code.co_name}"
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return first, "decide" in names


class Watching(TorchDispatchMode):
    """Counts operations whose result has a shape that depends on values."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name
        by_values = name in ("aten::nonzero", "aten::masked_select", "aten::_unique2")
        if name in ("aten::index", "aten::index_put_"):
            by_values = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if by_values:
            self.note()
        return operation(*args, **(kwargs or {}))


@contextmanager
def watched():
    """Counts reads of values, and tensors made of Python numbers on a device, by function."""
    found = Counter()

    def note():
        who, deciding = reader()
        if who is not None and not deciding:
            found[who] += 1

    def noting(original, counts=lambda *args, **named: True):
        def wrapped(*args, **named):
            if counts(*args, **named):
                note()
            return original(*args, **named)

        return wrapped

    def by_list(_, index):
        parts = index if isinstance(index, tuple) else (index,)
        return any(isinstance(part, list) for part in parts)

    with pytest.MonkeyPatch.context() as patch, Watching(note):
        for name in READS:
            patch.setattr(torch.Tensor, name, noting(getattr(torch.Tensor, name)))
        patch.setattr(torch.Tensor, "__getitem__", noting(torch.Tensor.__getitem__, by_list))
        patch.setattr(torch, "tensor", noting(torch.tensor, lambda *_, **named: "device" in named))
        yield found


@pytest.fixture
def taped(monkeypatch):
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())


def steps(shaper, kv, executor="functional", drafter="model:noisy"):
    """The reads of a request's steps, and how many steps and levels there were."""
    pipeline = Pipeline(
        copy.deepcopy(tiny("llama", stops=())),
        drafter=drafter,
        shaper=shaper,
        kv=kv,
        pool=Pool(modules={"noisy": noisy("llama", noise=0.01)}, costs=COSTS, executor=executor),
        registry=REGISTRY,
    )
    stream = pipeline.stream([5, 9, 33, 4, 8, 60, 17], max_new_tokens=30)
    events = stream.decode()
    for _ in range(3):
        next(events)
    with native.using(None), watched() as found:
        count = sum(1 for _ in events)
    return found, count


@pytest.mark.parametrize(
    ("shaper", "kv"),
    [
        *((shaper, "full") for shaper in REGISTRY.names("shaper")),
        *(("budget", kv) for kv in ("window:budget=8", "h2o:budget=12,epoch=4,recent=4")),
    ],
)
def test_a_step_reads_at_named_places_only(taped, shaper, kv):
    found, count = steps(shaper, kv)
    assert set(found) <= set(NAMED)
    judged = found["toolkit/likeliest.py:likeliest_and_margins"]
    assert 0 < judged <= 2 * count


@pytest.mark.parametrize("shaper", ["chain:k=2", "growmap:tree=2x2"])
def test_a_whole_step_reads_once(taped, shaper):
    """What it found, which are two reads of one copy. The last trees are cut."""
    found, count = steps(shaper, "full", "auto")
    whole = found["toolkit/runtime/step_graph.py:of"] / 2
    passes = found["toolkit/likeliest.py:likeliest_and_margins"]
    assert whole > 3 >= passes == count - whole
    assert set(found) <= set(NAMED)


def test_a_step_of_ar_reads_once(taped):
    found, count = steps("chain", "full", "auto", "none")
    assert found == {"toolkit/runtime/step_graph.py:of": 2 * count}


def test_a_read_elsewhere_is_noticed(taped, monkeypatch):
    """The control, once for each kind of read."""
    honest, reads = (
        GraphInputs.fill,
        [
            lambda t: int(t[0]),
            lambda t: t[[0]],
            lambda t: t[t > 3],
            lambda t: torch.tensor([1], device=t.device),
        ],
    )
    for read in reads:

        def forward(self, *args, read=read):
            read(torch.arange(9))
            return honest(self, *args)

        forward.__code__ = forward.__code__.replace(co_filename=str(ROOT / "toolkit/made_up.py"))
        read.__code__ = read.__code__.replace(co_filename=str(ROOT / "toolkit/made_up.py"))
        monkeypatch.setattr(GraphInputs, "fill", forward)
        found, _ = steps("chain", "full")
        assert any(who.startswith("toolkit/made_up.py") for who in found)


def test_the_margin_comes_with_the_argmax_where_a_kernel_finds_both(monkeypatch):
    from toolkit import likeliest
    from toolkit.runtime.kernels.recorded_top_tokens import RecordedTopTokens

    logits = torch.tensor([[1.0, 4.0, 2.5], [3.0, 3.0, 0.0]])
    plain, ours = Sampler(), Sampler()
    monkeypatch.delitem(likeliest.kernels, "cpu")
    assert plain.likeliest(logits) == [1, 0]
    monkeypatch.setitem(likeliest.kernels, "cpu", RecordedTopTokens())
    assert ours.likeliest(logits) == [1, 0]
    assert [ours.margin(logits, row) for row in (0, 1)] == [1.5, 0.0]
    assert [plain.margin(logits, row) for row in (0, 1)] == [1.5, 0.0]
    tokens, logprobs = likeliest.likeliest(logits, 2)
    monkeypatch.undo()
    assert (tokens[0], likeliest.likeliest(logits, 2)[0][0]) == ([1, 2], [1, 2])
    assert logprobs == [pytest.approx(row) for row in likeliest.likeliest(logits, 2)[1]]
