"""PositionTable against lists: which positions are held, who sees them, which rows move where."""

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.runtime.kv.positions import GROWTH, NEVER, PositionTable

CPU = torch.device("cpu")


class Machine(RuleBasedStateMachine):
    """Per head, a list of (position, evicted at); the table's empty rows lie in front."""

    @initialize(heads=st.integers(1, 3))
    def start(self, heads):
        self.table = PositionTable(heads, None, CPU)
        self.held = [[] for _ in range(heads)]
        self.length = self.gone = 0

    @rule(count=st.integers(1, 6))
    def append(self, count):
        self.table.append(self.length, count)
        for head in self.held:
            head += [(position, NEVER) for position in range(self.length, self.length + count)]
        self.length += count

    @rule(
        data=st.data(), lag=st.integers(0, 5), later=st.integers(0, 3), early=st.integers(0, 3)
    )
    def evict(self, data, lag, later, early):
        """Some of all but the newest rows, which were not decided on."""
        when, now = self.length + lag, max(0, self.length - early)
        count = max(0, self.table.count - later)
        losers = torch.zeros(len(self.held), count, dtype=torch.bool)
        for head, rows in enumerate(self.held):
            empty = self.table.count - len(rows)
            for row in range(max(0, count - empty)):
                if data.draw(st.booleans()):
                    losers[head, empty + row] = True
                    position, evicted_at = rows[row]
                    rows[row] = position, min(evicted_at, when)
        before, edition = self.table.positions.clone(), self.table.edition
        index = self.table.evict(losers, when, now)
        stays = [[row for row in rows if row[1] > now] for rows in self.held]
        gone = sum(map(len, self.held)) - sum(map(len, stays))
        self.held, self.gone = stays, self.gone + gone
        nexts = [evicted_at for rows in stays for _, evicted_at in rows]
        assert self.table.next_eviction == min(nexts, default=NEVER)
        if losers.any() or gone:
            assert self.table.edition is not edition
        if index is None:
            assert gone == 0
            return
        assert index.shape == self.table.positions.shape
        for head, rows in enumerate(self.held):
            real = index[head, index.shape[1] - len(rows) :]
            assert before[head, real].tolist() == [position for position, _ in rows]

    @invariant()
    def the_table_is_the_lists(self):
        widest = max(map(len, self.held))
        assert self.table.evicted == self.gone
        for positions, evicted_at, rows in zip(
            self.table.positions.tolist(), self.table.evicted_at.tolist(), self.held, strict=True
        ):
            empty = self.table.count - len(rows)
            assert empty >= widest - len(rows)
            assert positions == [-1] * empty + [position for position, _ in rows]
            assert evicted_at[empty:] == [when for _, when in rows]
            assert not any(evicted_at[:empty])

    @invariant()
    def queries_see_what_is_not_evicted(self):
        at = torch.arange(self.length, self.length + 8)[:, None]
        visible = self.table.visible(at, int(at[-1])).expand(len(self.held), -1, -1)
        for head, rows in enumerate(self.held):
            empty = self.table.count - len(rows)
            for i, query in enumerate(at.flatten().tolist()):
                expected = [query < evicted_at for _, evicted_at in rows]
                assert visible[head, i].tolist() == [False] * empty + expected


TestPositionTable = Machine.TestCase


def holding(*heads):
    """A table that holds these positions, none of them evicted."""
    table = PositionTable(len(heads), None, CPU)
    table.append(0, len(heads[0]))
    table.positions[:] = torch.tensor(heads)
    table.evicted_at[:] = torch.where(table.positions < 0, 0, NEVER)
    table.ragged = bool((table.positions < 0).any())
    return table


def test_an_eviction_only_moves_nearer():
    table = holding([0, 1, 2])
    table.evict(torch.tensor([[True, True, False]]), 9, 3)
    table.evict(torch.tensor([[True, False, False]]), 7, 3)
    table.evict(torch.tensor([[False, True, False]]), 12, 3)
    assert table.evicted_at.tolist() == [[7, 9, NEVER]]
    assert table.next_eviction == 7


def test_nothing_is_dropped_before_its_time():
    table = holding([0, 1, 2])
    assert table.evict(torch.tensor([[True, False, True]]), 9, 8) is None
    assert table.evict(torch.zeros(1, 3, dtype=torch.bool), 99, 9).tolist() == [[1]]
    assert table.next_eviction == NEVER


def test_everything_may_go():
    table = holding([0, 1], [0, 1])
    assert table.evict(torch.ones(2, 2, dtype=torch.bool), 2, 2).shape == (2, 0)
    assert table.count == 0
    assert table.evicted == 4
    assert table.evict(torch.ones(2, 0, dtype=torch.bool), 4, 4) is None


def test_a_head_that_holds_less_has_empty_rows_in_front():
    table = holding([0, 1, 2, 3], [0, 1, 2, 3])
    table.evict(torch.tensor([[1, 0, 0, 0], [1, 0, 1, 1]]).bool(), 4, 4)
    assert table.positions.tolist() == [[1, 2, 3], [-1, -1, 1]]
    assert table.ragged
    assert table.visible(torch.tensor([[4]]), 4)[:, 0].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_an_eviction_waits_once(monkeypatch):
    """No index depends on values, and there is one read of values, however many heads there are."""
    table, reads = holding([0, 1, 2, 3], [0, 1, 2, 3]), []
    for name in ("tolist", "item", "__int__", "__bool__"):
        honest = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda t, name=name, honest=honest: reads.append(name) or honest(t)
        )

    class NoIndexByValues(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            assert operation._schema.name not in ("aten::index", "aten::index_put_", "aten::nonzero")
            return operation(*args, **(kwargs or {}))

    losers = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 1]]).bool()
    with NoIndexByValues():
        table.evict(losers, 4, 4)
    assert reads == ["tolist"]


def test_a_query_beyond_an_eviction_and_one_before_it():
    table = holding([0, 1, 2])
    table.evict(torch.tensor([[True, False, False]]), 5, 3)
    assert table.visible(torch.tensor([[3], [4], [5]]), 5)[0, :, 0].tolist() == [True, True, False]


def test_a_copy_holds_the_same_and_evicts_nothing():
    other = holding([-1, 2, 3])
    other.evict(torch.tensor([[False, True, False]]), 5, 4)
    table = other.copy(slice(None), 2)
    assert table.positions.tolist() == [[-1, 2, 3]] * 2
    assert table.evicted_at.tolist() == [[0, NEVER, NEVER]] * 2
    assert table.ragged
    table.append(4, 1)
    table.positions[0, 0] = 7
    assert other.positions.tolist() == [[-1, 2, 3]]
    assert holding([0, 1], [2, 3]).copy(slice(1, 2), 1).positions.tolist() == [[2, 3]]


def test_joined_tables_are_those_of_all_heads():
    one, other = holding([0, 1, 2], [0, 1, 2]), holding([-1, 1, 3], [0, 1, 3])
    one.evict(torch.tensor([[True, False, False]] * 2), 7, 4)
    table = PositionTable.joined([one, other])
    assert table.positions.tolist() == [*one.positions.tolist(), *other.positions.tolist()]
    assert table.evicted_at.tolist() == [*one.evicted_at.tolist(), *other.evicted_at.tolist()]
    assert (table.ragged, table.next_eviction, table.evicted) == (True, 7, 0)
    table.append(4, 2)
    assert table.positions[:, 3:].tolist() == [[4, 5]] * 4


def test_a_part_leaves_out_what_is_empty_in_all_its_heads():
    table = holding([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3])
    losers = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]]).bool()
    table.evict(losers, 4, 4)
    part = table.part([0, 1], torch.tensor([0, 1]))
    assert part.positions.tolist() == [[-1, 1], [2, 3]]
    assert part.evicted_at.tolist() == [[0, NEVER], [NEVER, NEVER]]
    assert part.ragged
    assert not table.part([2], torch.tensor([2])).ragged
    assert (table.evicted, part.evicted) == (6, 0)


def test_bytes_are_those_of_the_tables():
    assert holding([0, 1, 2]).bytes == 2 * GROWTH * 8
