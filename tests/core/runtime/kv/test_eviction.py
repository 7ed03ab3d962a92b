"""The boundary clock: when a policy decides, what it reads, when its decision is in force."""

import copy

import pytest
import torch

from toolkit import MaskPolicy, Pool, ScorePolicy
from toolkit.conformance.models import WINDOW, tiny
from toolkit.runtime.kv.cache import GROWTH
from toolkit.runtime.kv.positions import PositionTable
from toolkit.runtime.session import ModelSession

PROMPT, EPOCH = 10, 4


def copied(view):
    """The view as it was: its tensors are the cache's own."""
    kept = copy.copy(view)
    for name in ("keys", "positions", "carry", "queries", "_evicted_at"):
        setattr(kept, name, getattr(view, name).clone())
    values = view.values.clone()
    kept._values = lambda: values
    return kept


class Watched(ScorePolicy):
    """Keeps the oldest, and remembers what it was given. A score is the position and a bit."""

    name = "watched"
    budget, epoch = 6, EPOCH

    def __init__(self, rooms=None):
        self.views, self.rooms = [], rooms

    def score(self, view):
        self.views.append(copied(view))
        return -(view.positions + 0.25).to(view.carry.dtype)

    def capacity(self, view):
        return self.budget if self.rooms is None else self.rooms


class Unlogged(Watched):
    logs = False


class Once(Watched):
    once = True


def opened(policy, family="llama", prompt=PROMPT):
    session = ModelSession(Pool(modules={"it": tiny(family)}).load("it"), policy)
    session.prefill(text(0, prompt))
    return session


def text(first, count):
    """The tokens at `count` positions from `first` on."""
    return [position % 90 + 1 for position in range(first, first + count)]


def advance(session, *counts):
    """Commit chains of these lengths."""
    for count in counts:
        session.forward(text(session.length, count), list(range(-1, count - 1)))
        session.commit(list(range(count)))
    return session


def held(session, layer=0):
    here = session.cache.layers[layer]
    return here.table.positions[here.heads].tolist()


@pytest.mark.parametrize("counts", [[1] * 14, [4, 4, 4, 2], [3, 2, 4, 1, 3, 1], [1, 4, 4, 4, 1]])
def test_the_clock_counts_committed_tokens(counts):
    """Not passes, and not from 0: at P, then every W tokens, whatever is committed at a time."""
    policy = Watched()
    advance(opened(policy), *counts)
    assert [(view.layer, view.now) for view in policy.views] == [
        (layer, now) for now in (10, 14, 18, 22) for layer in (0, 1)
    ]
    for view in policy.views:
        assert view.layers == 2
        first = 0 if view.now == PROMPT else view.now - EPOCH
        assert view.query_positions.tolist() == list(range(first, view.now))


def test_what_a_policy_reads_does_not_depend_on_the_schedule():
    views = []
    for counts in ([1] * 13, [3, 4, 4, 2], [2, 4, 1, 4, 2]):
        policy = Watched()
        advance(opened(policy), *counts)
        views.append(policy.views)
    for ours, *others in zip(*views, strict=True):
        for other in others:
            assert torch.equal(ours.positions, other.positions)
            assert torch.equal(ours._evicted_at, other._evicted_at)
            for name in ("keys", "values", "queries", "carry"):
                torch.testing.assert_close(
                    getattr(ours, name), getattr(other, name), rtol=0, atol=1e-9
                )


def test_the_first_decision_is_in_force_at_once_and_others_an_epoch_later():
    session = opened(Watched())
    first = list(range(6))
    assert held(session) == [first] * 2
    advance(session, 1, 1, 1, 1)  # at 14, the four since are evicted
    assert held(session) == [[*first, 10, 11, 12, 13]] * 2
    advance(session, 1, 1, 1)
    assert held(session) == [[*first, *range(10, 17)]] * 2
    table = session.cache.layers[0].table
    visible = table.visible(torch.tensor([[17], [18]]), 18)[0].tolist()
    assert visible[0] == [True] * 13
    assert visible[1] == [True] * 6 + [False] * 4 + [True] * 3
    advance(session, 1)
    assert held(session) == [[*first, *range(14, 18)]] * 2
    assert session.cache.evicted == 2 * 2 * (4 + 4)


def test_what_was_committed_beyond_a_boundary_is_not_decided_on():
    policy = Watched()
    session = advance(opened(policy), 3, 4)  # 13, then 17: three beyond 14
    assert policy.views[-1].positions.tolist() == [[0, 1, 2, 3, 4, 5, 10, 11, 12, 13]] * 2
    assert held(session) == [[*range(6), *range(10, 17)]] * 2
    assert session.cache.groups[0].queries.committed.shape[1] == 3


def test_what_is_evicted_is_not_chosen_again():
    policy = Watched()
    advance(opened(policy), 4, 4)
    at_18 = policy.views[4]
    assert at_18.positions[0].tolist() == [*range(6), *range(10, 18)]
    assert (at_18._evicted_at[0] == 18).tolist() == [False] * 6 + [True] * 4 + [False] * 4


def test_carry_is_the_last_score_of_each_row_that_stays():
    policy = Watched()
    advance(opened(policy), *[3] * 6)
    for view in policy.views:
        new = view.positions >= view.now - EPOCH
        if view.now > PROMPT:
            expected = -(view.positions + 0.25).double().masked_fill(new, 0.0)
            assert torch.equal(view.carry, expected)
        else:
            assert not view.carry.any()


def test_heads_of_different_sizes():
    policy = Watched(rooms=torch.tensor([2, 5]))
    session = opened(policy)
    assert held(session) == [[-1, -1, -1, 0, 1], [0, 1, 2, 3, 4]]
    advance(session, 4, 4)
    assert held(session) == [
        [-1, -1, -1, 0, 1, 14, 15, 16, 17], [0, 1, 2, 3, 4, 14, 15, 16, 17]
    ]


def test_once_is_once():
    policy = Once()
    session = advance(opened(policy), *[4] * 5)
    assert [view.now for view in policy.views] == [10, 10]
    assert held(session) == [[*range(6), *range(10, 30)]] * 2
    assert not any(group.queries.bytes for group in session.cache.groups)


def test_a_policy_that_reads_no_queries_has_none_logged():
    policy = Unlogged()
    session = opened(policy)
    session.forward([1, 2], [-1, -1])
    assert not any(group.queries.bytes for group in session.cache.groups)
    session.commit([0])
    advance(session, *[4] * 5)
    assert not any(group.queries.bytes for group in session.cache.groups)
    assert {view.queries.shape[1] for view in policy.views[2:]} == {0}


def freed(visible, prompt, epoch):
    """Boundaries and what is held there. At P all hidden rows are gone; at a later boundary, those
    that are hidden from its query and were committed a whole epoch before it."""
    rows, now = [p for p in range(prompt) if visible(prompt, p)], prompt
    yield now, rows
    rows, now = [*rows, *range(now, now + epoch)], now + epoch
    yield now, rows
    while True:
        now += epoch
        rows = [p for p in rows if visible(now, p)] + list(range(now - epoch, now))
        yield now, rows


@pytest.mark.parametrize("spec", ["window:5", "streaming:budget=6,sinks=2,epoch=4"])
def test_what_a_position_hides_is_freed_at_boundaries(make, spec):
    policy = make("kv", spec)
    session, epoch = opened(policy), policy.epoch

    def visible(query, key):
        return bool(policy.visible(torch.tensor([[query]]), torch.tensor([[key]])))

    for (now, expected), _ in zip(freed(visible, PROMPT, epoch), range(6), strict=False):
        assert session.length == now
        assert held(session) == [expected]
        advance(session, *[1] * (epoch - 1))
        assert held(session) == [[*expected, *range(now, now + epoch - 1)]]  # none in between
        advance(session, 1)


@pytest.mark.parametrize(
    "spec", ["h2o:budget=7,sinks=1,recent=2,epoch=4", "streaming:budget=9,epoch=4"]
)
def test_sliding_layers_keep_to_their_window(make, spec):
    session = opened(make("kv", spec), "gemma2", 20)
    policy = session.policy

    def visible(query, key):
        scores = isinstance(policy, ScorePolicy)
        mask = scores or policy.visible(torch.tensor([[query]]), torch.tensor([[key]]))
        return query - key < WINDOW and bool(mask)

    for (_, expected), _ in zip(freed(visible, 20, 4), range(6), strict=False):
        assert held(session, 0) == [expected]
        assert held(session, 1)[0] != expected
        advance(session, 3, 1)


def test_a_step_commits_at_most_an_epochs_tokens(make):
    session = opened(make("kv", "h2o:budget=8,recent=2,sinks=1,epoch=4"))
    assert [advance(session, count).max_draft_depth for count in (1, 2, 3)] == [3, 3, 3]


def test_keys_that_move_let_no_pass_cross_a_boundary(make):
    session = opened(make("kv", "streaming:budget=6,sinks=2,positions=cache,epoch=4"))
    depths = [session.max_draft_depth]
    for count in (1, 2, 1, 4, 3):
        depths.append(advance(session, count).max_draft_depth)
    assert depths == [3, 2, 0, 3, 3, 0]


def test_a_second_prompt_is_read_in_steps_that_cross_one_boundary_at_a_time():
    policy, other = Watched(), Watched()
    session, single = opened(policy), advance(opened(other), *[1] * 11)
    session.prefill(text(PROMPT, 11))
    assert held(session) == held(single)
    assert [view.now for view in policy.views] == [view.now for view in other.views]


@pytest.mark.parametrize(
    "spec",
    [
        "streaming:budget=16,epoch=8", "streaming:budget=16,epoch=8,positions=cache",
        "h2o:budget=16,recent=4,epoch=8", "tova:budget=16,epoch=8", "knorm:budget=16,epoch=8",
        "expected:budget=16,recent=4,epoch=8", "headaware:budget=16,recent=2,epoch=8",
    ],
)
def test_buffers_are_sized_by_the_policy(make, spec):
    """Rows: the budget, two epochs and what a step adds, rounded up; beside them an epoch's log."""
    session = opened(make("kv", spec), prompt=100)
    for _ in range(30):
        advance(session, 5)
        for layer in session.cache.layers:
            assert layer.table.count <= 16 + 2 * 8 + 5
            assert layer.keys.shape[2] == 2 * GROWTH  # what fits, and room for a tree, rounded up
            log, carry = layer.group.queries, layer.group.carry
            assert log.committed is None or log.committed.shape[1] < 8 + 5
            assert carry is None or carry.shape[1] <= layer.table.count
            assert not log.drafted
    assert session.length == 250
    assert session.cache.evicted > 0
    parts = [part.nbytes for layer in session.cache.layers for part in layer.tensors]
    assert session.cache.bytes == sum(parts) + sum(group.bytes for group in session.cache.groups)


def test_full_is_not_bounded(make):
    """The negative control."""
    session = advance(opened(make("kv", "full"), prompt=100), *[10] * 10)
    assert session.cache.layers[0].table.count == 200
    assert session.cache.layers[0].keys.shape[2] > 2 * GROWTH


class Blinks(MaskPolicy):
    """Hides one position from one query now and then, and never what a boundary asks about."""

    name = "blinks"
    epoch = 8

    def visible(self, query_pos, key_pos):
        return ~((query_pos % 4 == 2) & (query_pos - key_pos == 2))


@pytest.mark.parametrize("counts", [[3] * 12, [8] * 4 + [4], [2, 5, 7, 1, 8, 6, 7]])
def test_masks_are_left_out_only_where_no_query_needs_them(counts):
    """What a pass may leave out does not depend on where the commits before it ended."""
    caches = []
    for steps in (counts, [1] * sum(counts)):
        session = advance(opened(Blinks()), *steps)
        assert session.eviction.all_visible_until < session.length
        caches.append(session.cache.committed())
    for (_, *keys), (_, *others) in zip(*caches, strict=True):
        for mine, other in zip(keys, others, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_a_policy_that_hides_nothing_needs_no_masks(make):
    session = advance(opened(make("kv", "full")), *[1] * 70)
    assert session.eviction.all_visible_until >= session.length


@pytest.mark.parametrize(("spec", "calls"), [("full", 0), ("window:budget=8", 1)])
def test_a_policy_that_hides_nothing_never_reads_what_the_device_holds(make, monkeypatch, spec, calls):
    """Which another one does at each boundary."""
    session, evictions = opened(make("kv", spec)), []
    real = PositionTable.evict
    monkeypatch.setattr(
        PositionTable, "evict", lambda *given: evictions.append(1) or real(*given)
    )
    advance(session, *[1] * 150)
    assert bool(evictions) == calls
    assert session.eviction.hides(session.length) == bool(calls)


def test_masks_come_before_the_first_row_is_hidden(make):
    """Where all rows are held, and within two epochs those of the prompt alone will be hidden."""
    ahead = 2 * make("kv", "window").epoch
    session = opened(make("kv", f"window:budget={ahead + 2}"))
    assert session.cache.tables[0].evicted == 0
    assert session.eviction.hides(ahead + 2)
    longer = opened(make("kv", f"window:budget={ahead + PROMPT + 2}"))
    assert not longer.eviction.hides(ahead + 2)


def test_rows_outside_a_model_s_own_window_are_dropped_whatever_the_policy(make):
    policy = make("kv", "full")
    session = advance(opened(policy, "mistral"), *[1] * 4 * policy.epoch)
    assert 0 < len(held(session)[0]) < session.length
    assert len(held(session)[0]) <= WINDOW + 2 * policy.epoch
