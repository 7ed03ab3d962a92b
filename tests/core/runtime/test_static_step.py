"""Whole steps as one graph against the general loop. Tapes stand in for CUDA graphs."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tape import Tape

from toolkit import Pipeline, Pool, Registry
from toolkit.conformance.comparison import Broken, require_same_rows, snapshot
from toolkit.conformance.models import noisy, tiny
from toolkit.runtime import static_step
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.compute.executors.captured import DEEPEST
from toolkit.runtime.kv import slab
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.static_step import Part, StaticStep

REGISTRY = Registry.installed()
SHAPERS = (
    "chain:k=1",
    "chain:k=4",
    "fixed:threshold=0,depth=3",
    "fixed:threshold=0,depth=3,branch=3,nodes=9",
    "growmap",
    "growmap:tree=3x2",
)


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    monkeypatch.setattr(slab, "SMALLEST", DEEPEST)
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())


def pipeline(shaper, family="llama", **options):
    target = copy.deepcopy(tiny(family)).double()
    draft = copy.deepcopy(noisy(family, noise=0.02)).double()
    pool = Pool(modules={"it": target, "noisy": draft})
    options = {"drafter": "model:noisy", "registry": REGISTRY} | options
    return Pipeline("it", shaper=shaper, pool=pool, **options)


def run(made, prompts, tokens, general):
    """Each prompt's events and cache rows; how many steps ran as one graph."""
    found, count, honest = [], 0, StaticStep.run

    def counted(self, *args):
        nonlocal count
        verified = None if general else honest(self, *args)
        count += verified is not None
        return verified

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StaticStep, "run", counted)
        for prompt in prompts:
            stream = made.stream(prompt, max_new_tokens=tokens)
            events = list(stream.decode())
            found.append((events, snapshot(stream.target.cache)))
    return found, count


def require_same(made, prompts, tokens):
    """Require the general loop's steps of whole steps; returns how many there were, and the longest
    request's steps."""
    ours, count = run(made, prompts, tokens, general=False)
    theirs, none = run(made, prompts, tokens, general=True)
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


@settings(max_examples=3)
@given(st.sampled_from(SHAPERS), st.lists(PROMPT, min_size=1, max_size=2), st.integers(1, 60))
def test_whole_steps_are_the_general_loop_s(shaper, prompts, tokens):
    count, longest = require_same(pipeline(shaper), prompts, tokens)
    assert count or longest < 8  # the last trees are cut


PROMPTS = [[5, 9, 33, 4, 8, 60, 17], [5, 9, 33, 7], [80]]


@pytest.mark.parametrize("shaper", SHAPERS)
def test_most_steps_of_a_request_are_whole(shaper):
    """All but the ones whose trees the end of the request cuts; slabs are outgrown on the way."""
    made = pipeline(shaper)
    ours, count = run(made, [PROMPTS[0]], 90, general=False)
    steps = len(ours[0][0]) - 1
    assert count >= 0.7 * steps > 0


def test_a_whole_step_has_one_copy_in_and_one_out(monkeypatch):
    """Before the commit, which sends each model's path."""
    copies = []
    for name in ("send", "fetch"):
        honest = getattr(static_step, name)
        noting = lambda *args, name=name, honest=honest: (copies.append(name), honest(*args))[1]  # noqa: E731
        monkeypatch.setattr(static_step, name, noting)
    made = pipeline("chain:k=2")
    events = made.stream(PROMPTS[0], max_new_tokens=40).decode()
    for _ in range(4):
        next(events)  # graphs are captured in these
    copies.clear()
    next(events)
    assert copies == ["send", "fetch"]


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_other_families(family):
    assert require_same(pipeline("growmap:tree=3x2", family), PROMPTS[:1], 30)[0] > 0


@pytest.mark.parametrize("shaper", ["adaptive", "budget", "fixed"])
def test_shapers_whose_trees_differ_run_the_general_loop(shaper):
    assert run(pipeline(shaper), PROMPTS[:1], 20, general=False)[1] == 0


def test_a_length_that_is_not_read_anew_is_noticed(monkeypatch):
    """A control."""
    honest = Part.run

    def stale(self, captured, slab, length, tokens):
        return honest(self, captured, slab, torch.tensor(length.tolist()), tokens)

    monkeypatch.setattr(Part, "run", stale)
    with pytest.raises((AssertionError, Broken)):
        require_same(pipeline("chain:k=4"), PROMPTS[:1], 40)


def test_a_row_that_a_move_forgets_is_noticed(monkeypatch):
    """A control: the last row of a path stays where it was, after whole steps alone."""
    whole, honest_run, honest_move = [], StaticStep.run, TreeCache._move

    def run_and_note(self, *args):
        verified = honest_run(self, *args)
        whole.append(verified is not None)
        return verified

    def forgetful(self, rows):
        last = len(rows) - 1
        honest_move(self, [*rows[:-1], last] if whole and whole[-1] else rows)

    def general(self, *args):
        whole.append(False)

    made = pipeline("growmap:tree=3x2")
    monkeypatch.setattr(TreeCache, "_move", forgetful)
    monkeypatch.setattr(StaticStep, "run", run_and_note)
    ours = list(made.stream(PROMPTS[0], max_new_tokens=40).decode())
    monkeypatch.setattr(StaticStep, "run", general)
    theirs = list(made.stream(PROMPTS[0], max_new_tokens=40).decode())
    assert [event.tokens for event in ours] != [event.tokens for event in theirs]


@pytest.mark.parametrize("cut", [3, 4, 6, 7])
def test_a_stop_id_within_a_path_ends_the_request(cut):
    events = run(pipeline("chain:k=4"), PROMPTS[:1], 40, general=True)[0][0][0]
    stop = [token for event in events for token in event.tokens][cut]
    made = pipeline("chain:k=4")
    streams = []
    for general in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if general:
                patch.setattr(StaticStep, "run", lambda *_: None)
            stream = made.stream(PROMPTS[0], max_new_tokens=40)
            stream._ending.ids = frozenset([stop])
            streams.append((list(stream.decode()), snapshot(stream.target.cache)))
    (ours, rows), (theirs, their_rows) = streams
    assert [event.tokens for event in ours] == [event.tokens for event in theirs]
    assert ours[-1].tokens[-1] == stop
    require_same_rows(rows, their_rows, "a stopped request")


def test_where_a_step_cannot_be_captured_the_general_loop_runs(monkeypatch):
    monkeypatch.setattr(StaticStep, "_capture", lambda *_: None)
    assert require_same(pipeline("chain:k=4"), PROMPTS[:1], 20)[0] == 0
