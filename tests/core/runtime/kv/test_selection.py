"""Which rows stay, against a sort by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import ScorePolicy
from toolkit.errors import StrategyError
from toolkit.kv_view import KVView
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.positions import NEVER
from toolkit.runtime.kv.selection import rank, rounded, scores_of, select


class Given(ScorePolicy):
    """Scores and capacities as a test says."""

    name = "given"

    def __init__(self, scores=None, budget=3, sinks=0, recent=0, capacity=None):
        self.scores, self.room = scores, capacity
        self.budget, self.sinks, self.recent = budget, sinks, recent

    def score(self, view):
        return self.scores

    def capacity(self, view):
        return self.budget if self.room is None else self.room


def view_of(positions):
    positions = torch.tensor(positions)
    nothing = torch.zeros(*positions.shape, 2)
    return KVView(
        layer=3, layers=4, now=int(positions.max()) + 1, keys=nothing, values=lambda: nothing,
        positions=positions, carry=nothing[..., 0], queries=nothing[:, :0],
        scaling=1.0, evicted_at=torch.full_like(positions, NEVER), window=None,
        weights=AttentionConfig(1.0).weights, rotate=lambda states, by: states,
    )


def kept(scores, positions=None, eligible=None, **options):
    """Positions that stay, head by head."""
    scores = torch.tensor(scores, dtype=torch.float64)
    positions = [list(range(scores.shape[1]))] * len(scores) if positions is None else positions
    eligible = torch.ones_like(scores).bool() if eligible is None else torch.tensor(eligible).bool()
    stays = select(Given(**options), view_of(positions), scores, eligible)
    return [
        [p for p, stay in zip(row, head, strict=True) if stay]
        for row, head in zip(positions, stays.tolist(), strict=True)
    ]


numbers = st.sampled_from([-2.0, 0.0, 0.5, 0.5001, 1.0, 3e38, -math.inf, math.inf, math.nan])


@given(
    st.integers(1, 3).flatmap(
        lambda heads: st.lists(
            st.lists(st.tuples(numbers, st.booleans()), min_size=9, max_size=9),
            min_size=heads, max_size=heads,
        )
    ),
    st.integers(0, 3), st.integers(0, 3), st.integers(0, 12),
)
def test_against_a_sort(rows, sinks, recent, capacity):
    scores = [[score for score, _ in row] for row in rows]
    eligible = [[alive for _, alive in row] for row in rows]

    def worth(head, p):
        if p < sinks or p >= 9 - recent:
            return math.inf
        score = scores[head][p]
        if math.isnan(score) or score == -math.inf:
            return -3.5e38
        return min(float(torch.tensor(score).bfloat16()), 3.5e38)

    expected = []
    for head in range(len(rows)):
        there = [p for p in range(9) if eligible[head][p]]
        best = sorted(there, key=lambda p: (worth(head, p), p), reverse=True)
        expected.append(sorted(best[:capacity]))
    assert kept(scores, eligible=eligible, sinks=sinks, recent=recent, budget=capacity) == expected


def test_the_highest_stay():
    assert kept([[0.1, 5.0, 3.0, -1.0, 4.0], [9, 1, 8, 2, 7]]) == [[1, 2, 4], [0, 2, 4]]


def test_of_equals_the_newer_stay():
    assert kept([[1.0] * 7]) == [[4, 5, 6]]


def test_last_bits_do_not_decide():
    """Closer than a step of the grid: as good as equal, and the newer stay."""
    scores = [1.0 + 1e-4 * bit for bit in (3, 0, 2, 0, 1, 0)]
    assert kept([scores]) == [[3, 4, 5]]
    assert kept([[1.0, 1.0, 1.0 + 2**-6, 1.0, 1.0, 1.0]], budget=1) == [[2]]  # a step apart


def test_sinks_and_recent_stay_whatever_their_score():
    scores = [[-9.0, -9.0, 5.0, 6.0, 7.0, 8.0, -9.0, -9.0]]
    assert kept(scores, sinks=2, recent=2, budget=5) == [[0, 1, 5, 6, 7]]
    infinite = [[-9.0, math.inf, math.inf, math.inf, -9.0]]
    assert kept(infinite, sinks=0, recent=1, budget=2) == [[3, 4]]


def test_recent_counts_positions_and_not_rows():
    assert kept([[5.0, 6.0, 7.0, 0.0]], [[0, 1, 2, 9]], recent=4, budget=2) == [[2, 9]]


def test_heads_may_keep_different_numbers():
    scores = [[4.0, 3, 2, 1, 0]] * 3
    assert kept(scores, capacity=torch.tensor([1, 0, 9])) == [[0], [], [0, 1, 2, 3, 4]]


def test_what_is_not_eligible_neither_stays_nor_takes_room():
    scores = [[9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6, 5, 4]]
    alive = [[0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert kept(scores, eligible=alive) == [[1, 3, 4], [4, 5]]
    assert kept(scores, eligible=alive, sinks=3) == [[1, 3, 4], [4, 5]]


def test_empty_rows_in_front_never_stay():
    positions = [[-1, -1, 0, 4, 5], [0, 1, 2, 4, 5]]
    alive = [[0, 0, 1, 1, 1], [1] * 5]
    assert kept([[9.0, 9, 1, 2, 3]] * 2, positions, alive, sinks=1, budget=2) == [[0, 5], [0, 1]]


def test_what_is_no_number_goes_first():
    assert kept([[math.nan, -1e38, math.nan, 0.0, -2.0]]) == [[1, 3, 4]]
    assert torch.isfinite(rounded(torch.tensor([math.nan, math.inf, -math.inf, 3.4e38]))).all()


def test_ranks_count_from_the_worthiest():
    assert rank(torch.tensor([[1.0, 3, 3, 0]])).tolist() == [[2, 1, 0, 3]]


def test_scores_for_all_heads_alike():
    view = view_of([[0, 1, 2]] * 2)
    assert scores_of(Given(torch.tensor([[1.0, 2, 3]])), view).tolist() == [[1, 2, 3]] * 2


@pytest.mark.parametrize(
    "scores", [torch.zeros(3), torch.zeros(2, 2), torch.zeros(3, 3), torch.zeros(2, 3).long()]
)
def test_scores_of_another_shape_are_refused(scores):
    with pytest.raises(StrategyError, match=r"'given' scored .* layer 3 holds \[2, 3\] rows"):
        scores_of(Given(scores), view_of([[0, 1, 2]] * 2))


def test_one_score_for_all_heads_is_refused_where_heads_may_be_several_layers():
    class Headwise(Given):
        headwise = True

    with pytest.raises(StrategyError, match=r"rows: return floats of that shape$"):
        scores_of(Headwise(torch.zeros(1, 3)), view_of([[0, 1, 2]] * 2))


@pytest.mark.parametrize("capacity", [2.0, torch.ones(2), torch.ones(3).long(), None])
def test_a_capacity_of_another_kind_is_refused(capacity):
    class Wrong(Given):
        def capacity(self, view):
            return capacity

    with pytest.raises(StrategyError, match=r"capacity of .* in layer 3: return a whole number"):
        select(Wrong(), view_of([[0, 1]] * 2), torch.zeros(2, 2), torch.ones(2, 2).bool())


@pytest.mark.parametrize(
    ("rooms", "expected"),
    [
        ([2, 2], [2, 2, 2, 2]),
        ([1, 3], [1, 1, 3, 3]),
        ([torch.tensor([0, 2]), torch.tensor([3])], [0, 2, 3, 3]),
        ([torch.tensor([1, 2]), 3], [1, 2, 3, 3]),
    ],
)
def test_layers_may_have_other_capacities(rooms, expected):
    class ByLayer(Given):
        def capacity(self, view):
            return rooms[view.now - 4]

    each = [view_of([[0, 1, 2, 3]] * 2), view_of([[0, 1, 2, 4]] * 2)]  # `now` tells them apart
    view = view_of([[0, 1, 2, 3]] * 4)
    stays = select(ByLayer(), view, torch.zeros(4, 4), torch.ones(4, 4).bool(), each)
    assert stays.sum(1).tolist() == expected
