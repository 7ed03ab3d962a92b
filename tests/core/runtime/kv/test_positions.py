"""Slots against lists: which positions are held, who sees them, and which rows are moved where."""

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from toolkit.runtime.kv.positions import GROWTH, NEVER, Slots

CPU = torch.device("cpu")


class Machine(RuleBasedStateMachine):
    """Per head, a list of (position, death); the table's empty rows lie in front."""

    @initialize(heads=st.integers(1, 3), window=st.none() | st.integers(1, 6))
    def start(self, heads, window):
        self.slots = Slots(heads, window, CPU)
        self.held = [[] for _ in range(heads)]
        self.length = self.gone = 0

    @rule(count=st.integers(1, 6))
    def append(self, count):
        self.slots.append(self.length, count)
        for head in self.held:
            head += [(position, NEVER) for position in range(self.length, self.length + count)]
        self.length += count

    @rule(data=st.data(), lag=st.integers(0, 5), later=st.integers(0, 3))
    def doom(self, data, lag, later):
        """Some of all but the newest rows, which were not decided on."""
        count = max(0, self.slots.count - later)
        losers = torch.zeros(len(self.held), count, dtype=torch.bool)
        for head, rows in enumerate(self.held):
            empty = self.slots.count - len(rows)
            for row in range(max(0, count - empty)):
                if data.draw(st.booleans()):
                    losers[head, empty + row] = True
                    position, dies = rows[row]
                    rows[row] = position, min(dies, self.length + lag)
        self.slots.doom(losers, self.length + lag)

    @rule(early=st.integers(0, 3))
    def bury(self, early):
        now, before = self.length - early, self.slots.positions.clone()
        index = self.slots.bury(now)
        stays = [[row for row in rows if row[1] > now] for rows in self.held]
        gone = sum(map(len, self.held)) - sum(map(len, stays))
        self.held, self.gone = stays, self.gone + gone
        if index is None:
            assert gone == 0
            return
        assert index.shape == self.slots.positions.shape
        for head, rows in enumerate(self.held):
            real = index[head, index.shape[1] - len(rows) :]
            assert before[head, real].tolist() == [position for position, _ in rows]

    @invariant()
    def the_table_is_the_lists(self):
        widest = max(map(len, self.held))
        assert self.slots.evicted == self.gone
        for positions, dies, rows in zip(
            self.slots.positions.tolist(), self.slots.dies.tolist(), self.held, strict=True
        ):
            empty = self.slots.count - len(rows)
            assert empty >= widest - len(rows)
            assert positions == [-1] * empty + [position for position, _ in rows]
            assert dies[empty:] == [death for _, death in rows]
            assert not any(dies[:empty])

    @invariant()
    def queries_see_what_is_alive_and_near(self):
        at = torch.arange(self.length, self.length + 8)
        seen = self.slots.seen(None, at, int(at[-1]))
        seen = seen.expand(len(self.held), -1, -1)
        for head, rows in enumerate(self.held):
            empty = self.slots.count - len(rows)
            for i, query in enumerate(at.tolist()):
                near = self.slots.window or NEVER
                expected = [query < dies and query - position < near for position, dies in rows]
                assert seen[head, i].tolist() == [False] * empty + expected


TestSlots = Machine.TestCase


def holding(*heads, window=None):
    """A table that holds these positions, none of them doomed."""
    slots = Slots(len(heads), window, CPU)
    slots.append(0, len(heads[0]))
    slots.positions[:] = torch.tensor(heads)
    slots.dies[:] = torch.where(slots.positions < 0, 0, NEVER)
    slots.ragged = bool((slots.positions < 0).any())
    return slots


def test_a_doom_only_comes_nearer():
    slots = holding([0, 1, 2])
    slots.doom(torch.tensor([[True, True, False]]), 9)
    slots.doom(torch.tensor([[True, False, False]]), 7)
    slots.doom(torch.tensor([[False, True, False]]), 12)
    assert slots.dies.tolist() == [[7, 9, NEVER]]
    assert slots.next_death == 7


def test_nothing_is_buried_before_its_time():
    slots = holding([0, 1, 2])
    slots.doom(torch.tensor([[True, False, True]]), 9)
    assert slots.bury(8) is None
    assert slots.bury(9).tolist() == [[1]]
    assert slots.next_death == NEVER


def test_everything_may_go():
    slots = holding([0, 1], [0, 1])
    slots.doom(torch.ones(2, 2, dtype=torch.bool), 2)
    assert slots.bury(2).shape == (2, 0)
    assert slots.count == 0
    assert slots.evicted == 4


def test_a_head_that_holds_less_has_empty_rows_in_front():
    slots = holding([0, 1, 2, 3], [0, 1, 2, 3])
    slots.doom(torch.tensor([[1, 0, 0, 0], [1, 0, 1, 1]]).bool(), 4)
    slots.bury(4)
    assert slots.positions.tolist() == [[1, 2, 3], [-1, -1, 1]]
    assert slots.ragged
    assert slots.seen(None, torch.tensor([4]), 4)[:, 0].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_query_beyond_a_death_and_one_before_it():
    slots = holding([0, 1, 2])
    slots.doom(torch.tensor([[True, False, False]]), 5)
    assert slots.seen(None, torch.tensor([3, 4, 5]), 5)[:, 0].tolist() == [True, True, False]


def test_a_policy_of_positions_rules_over_every_head(make):
    slots = holding([0, 1, 6, 7], [-1, 3, 5, 7], window=6)
    seen = slots.seen(make("kv", "streaming:budget=4,sinks=2"), torch.tensor([6, 8]), 8)
    assert seen.tolist() == [
        [[False, True, True, True], [False, False, False, True]],
        [[False, False, True, True], [False, False, False, True]],
    ]


def test_a_copy_holds_the_same_and_dooms_nothing():
    other = holding([-1, 2, 3])
    other.doom(torch.tensor([[False, True, False]]), 4)
    slots = Slots(2, None, CPU)
    slots.copy(other)
    assert slots.positions.tolist() == [[-1, 2, 3]] * 2
    assert slots.dies.tolist() == [[0, NEVER, NEVER]] * 2
    assert slots.ragged
    slots.append(4, 1)
    slots.positions[0, 0] = 7
    assert other.positions.tolist() == [[-1, 2, 3]]


def test_bytes_are_those_of_the_tables():
    assert holding([0, 1, 2]).bytes == 2 * GROWTH * 8
