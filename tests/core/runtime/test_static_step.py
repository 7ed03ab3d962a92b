"""Whole steps as one graph against the general loop, AR's too. Tapes stand in for CUDA graphs."""

import copy
import signal
from functools import lru_cache

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from tape import Tape

from toolkit import Pipeline, Pool, Registry, Sampling, draft_session, likeliest, transfer
from toolkit.conformance.comparison import Broken, require_same_rows, snapshot
from toolkit.conformance.models import noisy, tiny
from toolkit.limits import Limits
from toolkit.runtime import static_step, step_graph
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.compute.executors.captured import DEEPEST
from toolkit.runtime.kv import cache, slab
from toolkit.runtime.static_step import StaticStep
from toolkit.runtime.step_graph import Part, StepGraph

REGISTRY = Registry.installed()
SHAPERS = (
    "chain:k=1",
    "chain:k=4",
    "fixed:threshold=0,depth=3",
    "fixed:threshold=0,depth=3,branch=3,nodes=9",
    "growmap",
    "growmap:tree=3x2",
)
AR = {"drafter": "none"}


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    monkeypatch.setattr(slab, "SMALLEST", DEEPEST)
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())


def pool(family="llama", executor="auto"):
    target = copy.deepcopy(tiny(family)).double()
    draft = copy.deepcopy(noisy(family, noise=0.02)).double()
    return Pool(modules={"it": target, "noisy": draft}, executor=executor)


shared = lru_cache(pool)  # with the graphs of the tests before


def pipeline(shaper, pool=None, **options):
    options = {"drafter": "model:noisy", "registry": REGISTRY} | options
    return Pipeline("it", shaper=shaper, pool=pool or shared(), **options)


FEW = 3  # steps of a request that are dropped: where it stops, and where it outgrows a slab


def run(made, prompts, tokens, general, **request):
    """Each prompt's events and cache rows; how many steps ran as one graph. Few others were begun, and
    what began ahead has left alone what was committed before."""
    found, count = [], 0
    with pytest.MonkeyPatch.context() as patch:
        if general:
            patch.setattr(StaticStep, "run", lambda *_: None)
        starts = watch_starts(patch)
        for prompt in prompts:
            stream, events = made.stream(prompt, max_new_tokens=tokens, **request), []
            for event in stream.decode():
                events.append(event)
                for drafts, (now, before) in enumerate(starts[-1] if starts else ()):
                    rows = stream.target.length - drafts  # a drafter forwards the last one once more
                    assert torch.equal(now[..., :rows, :], before[..., :rows, :])
                starts[-1:] = [()] * bool(starts)  # the next steps change more
            found.append((events, snapshot(stream.target.cache)))
            if not general and isinstance(stream._steps, StaticStep):
                count += stream._steps.count
    assert count <= len(starts) <= count + FEW * len(prompts)
    return found, count


def watch_starts(patch):
    """For each step that begins: the slabs, if it does so ahead of the host, and what they held."""
    starts, honest = [], StepGraph.start

    def start(self, state):
        ahead = state.data_ptr() == self.following.data_ptr()
        slabs = [it for it in self.reads if isinstance(it, torch.Tensor)] if ahead else []
        starts.append([(slab, slab.clone()) for slab in slabs])
        return honest(self, state)

    patch.setattr(StepGraph, "start", start)
    return starts


def require_same(made, prompts, tokens, **request):
    """Require the general loop's steps of whole steps; returns how many there were, and the longest
    request's steps."""
    ours, count = run(made, prompts, tokens, general=False, **request)
    theirs, none = run(made, prompts, tokens, general=True, **request)
    assert none == 0
    for (one, rows), (other, their_rows) in zip(ours, theirs, strict=True):
        assert [e.tokens for e in one] == [e.tokens for e in other]
        for a, b in zip(one[1:], other[1:], strict=True):
            assert (a.tree.tokens, a.tree.parents) == (b.tree.tokens, b.tree.parents)
            assert a.tree.logprobs == pytest.approx(b.tree.logprobs, abs=1e-4)
            assert a.verdict.path == b.verdict.path
            assert a.step.margin == pytest.approx(b.step.margin, abs=1e-4)
            counts = [(s.length, s.nodes, s.depth, s.accepted) for s in (a.step, b.step)]
            assert counts[0] == counts[1]
        require_same_rows(rows, their_rows, "whole steps")
    return count, max(len(events) for events, _ in theirs)


PROMPT = st.lists(st.integers(1, 96), min_size=1, max_size=30)


@settings(max_examples=2)
@given(st.sampled_from(SHAPERS), st.lists(PROMPT, min_size=1, max_size=2), st.integers(1, 60))
def test_whole_steps_are_the_general_loop_s(shaper, prompts, tokens):
    count, longest = require_same(pipeline(shaper), prompts, tokens)
    assert count or longest < 8  # the last trees are cut


@settings(max_examples=4)
@given(st.sampled_from(["adaptive", "select", "chain:k=4"]), PROMPT, st.integers(1, 60))
def test_steps_of_ar_are_the_general_loop_s(shaper, prompt, tokens):
    """Every one of them is whole, and the shaper is not asked."""
    count, events = require_same(pipeline(shaper, **AR), [prompt], tokens)
    assert count == events - 1


PROMPTS = [[5, 9, 33, 4, 8, 60, 17], [5, 9, 33, 7]]


@pytest.mark.parametrize(
    ("shaper", "family"), [("fixed:threshold=0,depth=3", "gpt_neox"), ("growmap:tree=3x2", "gpt2")]
)
def test_most_steps_of_a_request_are_whole(shaper, family):
    """All but the ones whose trees the end of the request cuts; slabs are outgrown on the way."""
    count, events = require_same(pipeline(shaper, pool(family)), PROMPTS[:1], 70)
    assert count >= 0.7 * (events - 1) > 0


@pytest.mark.parametrize("reads", [False, True], ids=["ahead of the host", "read by somebody"])
def test_a_step_is_asked_for_before_the_last_one_is_fetched(monkeypatch, reads):
    """And nothing else is copied; where nodes are recorded, each step takes a copy in and one out."""
    copies = []
    for module, name in [
        *((module, "send") for module in (static_step, cache, draft_session)),
        *((transfer.Slot, name) for name in ("ask", "fetch")),
        (likeliest, "fetch"),
    ]:
        honest = getattr(module, name)
        noting = lambda *args, name=name, honest=honest: (copies.append(name), honest(*args))[1]  # noqa: E731
        monkeypatch.setattr(module, name, noting)
    made = pipeline("growmap:tree=3x2", ignore_eos=True)
    stream = made.stream(PROMPTS[0], max_new_tokens=60, record_nodes=reads)
    events = stream.decode()
    for _ in range(4):
        next(events)  # graphs are captured in these
    copies.clear()
    paths = [next(events).verdict.path for _ in range(6)]
    assert any(path != list(range(len(path))) for path in paths)  # rows had to move
    assert copies == (["send", "ask", "fetch"] if reads else ["ask", "fetch"]) * 6
    ahead = "" if reads else ", 8 of them ahead of the host"
    assert stream.result.steps_run == f"9 steps as one graph each{ahead}"


@pytest.mark.parametrize("shaper", ["growmap:tree=3x2", "adaptive"])
def test_graphs_outlive_a_caller_s_inference_mode(shaper):
    """What PyTorch makes in it could not be written to later."""
    made, found = pipeline(shaper, pool()), []
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            found.append(made.generate(PROMPTS[0], max_new_tokens=20).token_ids)
    assert found[0] == found[1] == found[2]


def test_steps_are_captured_without_cudnn(monkeypatch):
    """As passes run, whose bits theirs are."""
    used, honest = [], static_step.capture_step

    def noting(*args):
        used.append(torch.backends.cuda.cudnn_sdp_enabled())
        return honest(*args)

    monkeypatch.setattr(static_step, "capture_step", noting)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    pipeline("chain:k=4", pool()).generate(PROMPTS[0], max_new_tokens=12)
    assert set(used) == {False}


def test_another_drafter_has_graphs_of_its_own():
    """Over the same slab of the target: one without rotation."""
    both = pool()
    both.modules["other"] = copy.deepcopy(noisy("gpt2", noise=0.02)).double()
    for drafter in ("noisy", "other"):
        made = pipeline("growmap:tree=2x1", both, drafter=f"model:{drafter}")
        assert require_same(made, PROMPTS[:1], 9)[0] > 0


def test_requests_that_take_turns():
    """Each over slabs of its own, whose graphs a later request takes over."""
    made = pipeline("growmap:tree=3x2", pool())
    alone = [run(made, [prompt], 14, general=True)[0][0][0] for prompt in PROMPTS]
    streams = [made.stream(prompt, max_new_tokens=14) for prompt in PROMPTS]
    running, found = dict(enumerate(stream.decode() for stream in streams)), [[], []]
    while running:
        for index, events in list(running.items()):
            if (event := next(events, None)) is None:
                del running[index]
            else:
                found[index] += event.tokens
    assert found == [[token for event in events for token in event.tokens] for events in alone]
    assert all(stream.result.steps_run[0] not in "0p" for stream in streams)


@pytest.mark.parametrize(
    ("shaper", "options", "why"),
    [
        ("adaptive", {}, "the trees of shaper adaptive differ in shape"),
        ("fixed", {}, "the trees of shaper fixed differ in shape"),
        ("chain", {"pool": "functional"}, "executor functional was asked for"),
        ("chain", {"kv": "h2o:budget=12,epoch=4,recent=4"}, "a KV policy scores rows"),
        ("chain", {"kv": "window:budget=8"}, "3 pass by pass, because a KV policy hides rows"),
        ("chain", {"sampling": Sampling(0.5)}, "only verifier greedy"),
        ("chain", {"sampling": Sampling(0.5), **AR}, "only verifier greedy"),
        ("chain", {"pool": "functional", **AR}, "executor functional was asked for"),
        ("chain", {"kv": "h2o:budget=12,epoch=4,recent=4", **AR}, "a KV policy scores rows"),
        ("chain", {"limits": Limits(max_nodes=3)}, "limits cut trees"),
        ("chain", {"limits": Limits(max_seconds=99), **AR}, "2 of them ahead of the host"),
    ],
)
def test_what_does_not_fit_runs_the_general_loop_and_says_why(shaper, options, why):
    if "pool" in options:
        options = {"pool": pool(executor="functional")}
    stream = pipeline(shaper, **options).stream(PROMPTS[0], max_new_tokens=4)
    steps = list(stream.decode())[1:]
    assert len(steps) > 0
    assert why in stream.result.steps_run


@pytest.mark.parametrize("options", [{}, AR], ids=["chain", "AR"])
def test_a_length_that_is_not_read_anew_is_noticed(monkeypatch, options):
    """A control."""
    honest = Part.run

    def stale(self, model, length, tokens):
        return honest(self, model, torch.tensor(length.tolist()), tokens)

    monkeypatch.setattr(Part, "run", stale)
    with pytest.raises((AssertionError, Broken)):
        require_same(pipeline("chain:k=4", pool(), **options), PROMPTS[:1], 24)


def test_a_row_that_a_move_forgets_is_noticed(monkeypatch):
    """A control: the second row of a path stays where it was."""
    honest = step_graph.move_rows

    def forgetful(buffer, rows, length):
        honest(buffer, torch.cat([rows[:1], rows[1:2] * 0 + length + 1, rows[2:]]), length)

    monkeypatch.setattr(step_graph, "move_rows", forgetful)
    with pytest.raises((AssertionError, Broken)):
        require_same(pipeline("growmap:tree=3x2", pool()), PROMPTS[:1], 40)


def test_steps_without_the_whole_tree_drop_what_began_ahead(monkeypatch):
    """The general loop runs those that draft tokens of probability 0, over the rows of the next one."""
    honest = step_graph.take_children

    def forbidding(step, top, chosen, first):
        honest(step, top, chosen, first)
        nodes, count = (len(step) - 5) // 5, len(chosen)
        tokens = step[2 + first :][:count]
        logprobs = step[2 + 2 * nodes + first :][:count].view(torch.float32)
        logprobs.masked_fill_(tokens % 4 == 0, -torch.inf)

    monkeypatch.setattr(step_graph, "take_children", forbidding)
    made = pipeline("growmap:tree=2x1", pool())
    for prompt in PROMPTS:
        stream = made.stream(prompt, max_new_tokens=60)
        ours = [event.tokens for event in stream.decode()]
        ((theirs, rows),) = run(made, [prompt], 60, general=True)[0]
        tokens = [token for event in theirs for token in event.tokens]
        assert [token for part in ours for token in part] == tokens
        require_same_rows(snapshot(stream.target.cache), rows, "steps that take turns with passes")
        assert stream._steps.obstacles["tokens of probability 0 are not drafted"]
        assert stream._steps.count_ahead


ARMS = [{"shaper": "chain:k=4"}, {"shaper": "growmap:tree=3x2"}, {"shaper": "chain", **AR}]


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_requests_end_within_steps_and_are_followed_by_others(arm):
    """The step that has begun by then is dropped: by a stop id, after each of the first tokens."""
    made = pipeline(**arm, pool=pool())
    found = run(made, PROMPTS[:1], 30, general=True)[0][0][0]
    tokens = [token for event in found for token in event.tokens]
    for stop in dict.fromkeys(tokens[2:9]):
        options = {"stop_ids": [stop]}
        require_same(made, PROMPTS, 20, **options)
        ours = made.stream(PROMPTS[0], max_new_tokens=20, **options)
        ids = [token for event in ours.decode() for token in event.tokens]
        assert ids == tokens[: len(ids)]
        assert ids[-1] == stop
        prompt = [*PROMPTS[0], *ids, 7, 12]
        assert made.stream(prompt, after=ours).kept >= len(prompt) - 4
        require_continues(made, ours, prompt)


def require_continues(made, before, prompt):
    """Require the general loop's tokens of a request that takes over another one's cache."""
    wanted = [event.tokens for event in run(made, [prompt], 20, general=True)[0][0][0]]
    stream = made.stream(prompt, max_new_tokens=20, after=before)
    assert [event.tokens for event in stream.decode()] == wanted
    assert stream._steps.count_ahead


@pytest.mark.parametrize("arm", ARMS, ids=str)
@pytest.mark.parametrize("way", ["closed", "fetch", "ask", "timed out", "left"])
def test_requests_that_are_broken_off_leave_nothing_to_later_ones(monkeypatch, arm, way):
    made = pipeline(**arm, pool=pool())
    stream = made.stream(PROMPTS[0], max_new_tokens=40)
    events = stream.decode()
    ids = [token for _, event in zip(range(4), events, strict=False) for token in event.tokens]
    assert stream._steps._ahead is not None
    with monkeypatch.context() as patch:
        if way in ("fetch", "ask"):  # Ctrl-C
            patch.setattr(transfer.Slot, way, lambda *_: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                next(events)
        elif way == "timed out":
            patch.setattr(Limits, "ends", lambda *_: True)
            assert list(events) == []
        elif way == "closed":
            events.close()
    require_continues(made, stream, [*PROMPTS[0], *ids, 7, 12])
    require_same(made, PROMPTS, 20)


@pytest.mark.parametrize("arm", ARMS, ids=str)
@pytest.mark.parametrize("off", [[-1, 0, 0], [1, 0, 0], [0, 0, 1]], ids=str)
def test_a_next_state_that_is_off_by_one_is_noticed(monkeypatch, arm, off):
    """A control: the device begins with another state than the host believes."""
    honest = StepGraph.start

    def start(self, state):
        ahead = state.data_ptr() == self.following.data_ptr()
        return honest(self, state + torch.tensor(off).int() if ahead else state)

    monkeypatch.setattr(StepGraph, "start", start)
    with pytest.raises((AssertionError, Broken)):
        require_same(pipeline(**arm, pool=pool()), PROMPTS[:1], 40)


def test_steps_that_are_never_of_use_are_noticed(monkeypatch):
    """A control: the host believes that the device begins with another state."""
    honest = step_graph.Found.of
    wrong = lambda packed: evolve(honest(packed), following=[0, 0, 0])  # noqa: E731
    monkeypatch.setattr(step_graph.Found, "of", wrong)
    with pytest.raises(AssertionError, match="<="):
        require_same(pipeline("chain:k=4", pool()), PROMPTS[:1], 40)


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_recorded_scores_are_of_their_own_step(arm):
    made = pipeline(**arm, pool=pool())
    ours, theirs = (
        [logprob for event in run(made, PROMPTS[:1], 30, general, record_nodes=True)[0][0][0][1:]
         for logprob in event.scores.logprobs]
        for general in (False, True)
    )  # fmt: skip
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_where_a_step_cannot_be_captured_the_general_loop_runs(monkeypatch):
    honest = Tape.record

    def refuse(self, run):
        if run.__qualname__.startswith("capture_step"):
            raise RuntimeError("no such operation\nin a graph")
        return honest(self, run)

    monkeypatch.setattr(Tape, "record", refuse)
    stream = pipeline("chain:k=4", pool()).stream(PROMPTS[0], max_new_tokens=12)
    assert sum(len(event.tokens) for event in stream.decode()) == 12
    assert "capturing failed: RuntimeError: no such operation" in stream.result.steps_run
