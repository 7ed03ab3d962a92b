"""What a step copies to a GPU and back, where it waits, found on a device that is not there."""

import copy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from attrs import frozen
from far import crossings, move
from tape import Tape

import toolkit
from toolkit import Pipeline, Pool, Registry, Sampling
from toolkit.conformance.models import COSTS, noisy, tiny
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.compute.executors.captured import Captured, GraphInputs
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.sampling import Sampler

REGISTRY = Registry.installed()
ROOT = Path(toolkit.__file__).parents[1]
OURS = ("toolkit", "strategies", "kvcache")

PASS = "toolkit/runtime/compute/executors/captured.py:fill"  # the numbers of a pass
MASK = "toolkit/runtime/compute/attention.py:tensors"  # who sees whom, where a policy hides rows
LEVEL = "toolkit/likeliest.py:likeliest"  # what a level proposes
LEVEL_CUT = "toolkit/proposer.py:_match"  # the same, where some tokens cannot be drawn
JUDGED = "toolkit/likeliest.py:likeliest_and_margins"  # what a greedy verifier reads
UNIFORMS = "toolkit/proposer.py:candidates"  # random numbers of a level that draws, and what it drew
ROUND = "toolkit/tree.py:keep"  # what a round of a level's draws found
DRAWN = "toolkit/randomness.py:draw_noisy"  # AR's token after a node: which comes next depends on it
NOISE = "toolkit/randomness.py:gumbel_noise"  # of several positions at once
SHARES = "toolkit/sampling.py:first_accepted"  # of a node's children: whose are next depends on it
BONUS = "toolkit/sampling.py:draw"
WEIGHT = "strategies/verifiers/traversal.py:judge"  # of a leaf: which is next depends on it
LIKELY = "strategies/verifiers/typical.py:judge"  # which nodes are
WHOLE = "toolkit/runtime/step_graph.py:start"  # all that a step finds that runs as one graph
PLAIN = (  # PyTorch's forms; kernels on a GPU have it from elsewhere
    "toolkit/likeliest.py:margin",  # with what was judged
    "toolkit/runtime/kernels/triton/move_rows.py:move_path_plain",  # the numbers are in the launch
)


@frozen
class Decoded:
    """A request's steps, and what crossed meanwhile, by who had it cross."""

    steps: list
    passes: int
    sent: Counter
    fetched: Counter

    @property
    def levels(self):
        """Passes of the drafter."""
        return self.passes - len(self.steps)

    @property
    def tokens(self):
        return sum(step.committed for step in self.steps)


def place():
    """The function of ours that has something cross, as file:name, and whether `toolkit.transfer` does
    it, which knows how. None for a policy that decides: it does so once in an epoch."""
    frame, found = sys._getframe(2), []
    while frame:
        path = Path(frame.f_code.co_filename)
        if any(path.is_relative_to(ROOT / room) for room in OURS):  # not tests, not a .venv
            found.append(f"{path.relative_to(ROOT)}:{frame.f_code.co_name}")
        frame = frame.f_back
    if any(name.endswith(":decide") for name in found):
        return None, False
    own = [name for name in found if not name.startswith("toolkit/transfer.py")]
    return next(iter(own), None), len(own) < len(found)


def decode(executor="functional", drafter="model:noisy", **choices):
    """A request on that device, from its fourth step on."""
    sent, fetched, passes, forward = Counter(), Counter(), [], Captured.forward

    def tell(what):
        who, knows = place()
        if who is not None and who not in PLAIN:
            if what == "fetch":
                fetched[who] += 1
            else:
                sent[who if knows else f"{who}, not pinned"] += 1

    def counted(*args):
        passes.append(args)
        return forward(*args)

    target, draft = copy.deepcopy((tiny("llama", stops=()), noisy("llama", noise=0.01)))
    move(target)
    move(draft)
    pool = Pool(modules={"noisy": draft}, costs=COSTS, executor=executor)
    with pytest.MonkeyPatch.context() as patch, crossings(tell):
        patch.setattr(captured, "recorder_for", lambda _: Tape())
        patch.setattr(Captured, "forward", counted)
        patch.setattr(Linears, "set_rule", lambda *_: True)  # it compares the bits of a real device
        pipeline = Pipeline(target, drafter=drafter, pool=pool, registry=REGISTRY, **choices)
        stream = pipeline.stream([5, 9, 33, 4, 8, 60, 17], max_new_tokens=30)
        events = stream.decode()
        for _ in range(3):
            next(events)
        for counts in (sent, fetched, passes):
            counts.clear()
        steps = [event.step for event in events]
    return Decoded(steps, len(passes), sent, fetched)


@pytest.mark.parametrize("shaper", REGISTRY.names("shaper"))
def test_one_copy_before_a_pass_and_one_after_it(shaper):
    found = decode(shaper=shaper)
    assert found.sent == {PASS: found.passes}
    assert found.fetched == {LEVEL: found.levels, JUDGED: len(found.steps)}
    assert found.levels > 0


@pytest.mark.parametrize("drafter", ["ngram", "none", "self"])
def test_what_needs_no_model_crosses_for_the_target_alone(drafter):
    found = decode(drafter=drafter)
    assert found.sent == {PASS: found.passes}
    assert found.fetched == Counter({LEVEL: found.levels, JUDGED: len(found.steps)})


@pytest.mark.parametrize(
    ("kv", "hides"),
    [
        ("window:budget=8", True),
        ("streaming:budget=12,positions=cache", True),
        ("h2o:budget=12,epoch=4,recent=4", False),
        ("knorm:budget=12,epoch=4", False),
    ],
)
def test_a_policy_adds_a_copy_at_most(kv, hides):
    """Which rows see which: a step's, where the policy hides rows by position."""
    found = decode(shaper="budget", kv=kv)
    assert 0 < found.sent.pop(MASK, 0) <= len(found.steps) if hides else MASK not in found.sent
    assert found.sent == {PASS: found.passes}
    assert found.fetched == {LEVEL: found.levels, JUDGED: len(found.steps)}


@pytest.mark.parametrize(("settings", "level"), [({}, LEVEL), ({"top_p": 0.9}, LEVEL_CUT)])
def test_drawing_as_ar_does_waits_once_a_token(settings, level):
    found = decode(sampling=Sampling(0.8, **settings))
    assert found.sent.pop(NOISE) <= 1 + found.tokens / 8
    assert found.sent == {PASS: found.passes}
    assert found.fetched == {level: found.levels, DRAWN: found.tokens}


@pytest.mark.parametrize("verifier", ["hybrid", "specinfer", "swor"])
def test_accepting_waits_once_a_node(verifier):
    """On the path, and once for the bonus; a level's draws have a round for each child at most."""
    found = decode(sampling=Sampling(0.8), verifier=verifier, shaper="growmap:tree=2x2")
    assert found.sent == {PASS: found.passes, UNIFORMS: found.levels}
    assert 0 < found.fetched.pop(SHARES) <= found.tokens
    rounds = found.fetched.pop(ROUND, 0) + found.fetched.pop(UNIFORMS, 0)
    assert found.levels <= rounds <= 2 * found.levels
    assert found.fetched == {BONUS: len(found.steps)}


def test_traversal_waits_once_a_leaf():
    """On a chain, those that were rejected and the one that was not."""
    found = decode(sampling=Sampling(0.8), verifier="traversal", shaper="chain")
    tried = sum(step.depth - step.accepted + (step.accepted > 0) for step in found.steps)
    assert found.sent == {PASS: found.passes, UNIFORMS: found.levels}
    assert found.fetched == {ROUND: found.levels, WEIGHT: tried, BONUS: len(found.steps)}


def test_typical_acceptance_waits_twice():
    found = decode(sampling=Sampling(0.8), verifier="typical")
    assert found.sent.pop(NOISE) <= 1 + found.tokens / 8
    assert found.sent == {PASS: found.passes}
    assert found.fetched.pop(LIKELY) <= len(found.steps)
    assert found.fetched == {LEVEL: found.levels, DRAWN: len(found.steps)}


@pytest.mark.parametrize("shaper", ["chain:k=2", "growmap:tree=2x2"])
def test_a_whole_step_waits_once_and_sends_nothing(shaper):
    """The last trees are cut: their steps have passes. The fourth step began in the third."""
    found = decode("auto", shaper=shaper)
    whole, judged = found.fetched.pop(WHOLE), found.fetched.pop(JUDGED)
    assert whole > 3 >= judged == len(found.steps) - whole - 1
    assert found.sent == {PASS: found.passes}
    assert found.fetched == {LEVEL: found.passes - judged}


def test_a_step_of_ar_waits_once():
    found = decode("auto", drafter="none")
    assert (found.sent, found.fetched) == ({}, {WHOLE: len(found.steps) - 1})


def test_what_crosses_elsewhere_is_noticed(monkeypatch):
    """The control; tests/tools/test_far.py has all ways."""
    honest = GraphInputs.fill

    def fill(self, *args):
        self.packed.tolist()
        self.packed[[0]]
        honest(self, *args)

    fill.__code__ = fill.__code__.replace(co_filename=str(ROOT / "toolkit/made_up.py"))
    monkeypatch.setattr(GraphInputs, "fill", fill)
    found = decode(shaper="chain")
    assert found.fetched["toolkit/made_up.py:fill"] == found.passes
    assert found.sent["toolkit/made_up.py:fill, not pinned"] == found.passes


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
