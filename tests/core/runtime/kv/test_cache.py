"""TreeCache against a list: rows are numbers, and the list says which must be held where."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from toolkit.errors import StrategyError
from toolkit.runtime.kernels import native
from toolkit.runtime.kv.cache import LayerGroup, TreeCache
from toolkit.runtime.kv.positions import GROWTH, PositionTable
from toolkit.runtime.kv.query_log import QueryLog

HEADS, WIDTH, LAYERS = 2, 3, 2


def states(ids, layer):
    """Keys whose every number is the row's own, and values that are their negatives."""
    keys = torch.tensor(ids, dtype=torch.float64).reshape(1, 1, -1, 1) + layer / 4
    keys = keys.expand(1, HEADS, -1, WIDTH) + torch.arange(HEADS).reshape(1, -1, 1, 1) / 16
    return keys, -keys


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.cache = TreeCache(LAYERS)
        self.committed, self.scratch, self.next = [], [], 1
        self.returned = None

    def forward(self, count):
        ids = list(range(self.next, self.next + count))
        self.next += count
        self.cache.extend(count)
        self.scratch += ids
        self.returned = [self.cache.update(*states(ids, layer), layer) for layer in range(LAYERS)]

    @rule(count=st.integers(1, 5))
    def forward_a_level(self, count):
        self.forward(count)

    @rule(count=st.integers(GROWTH - 3, 2 * GROWTH + 3))
    def forward_beyond_what_is_reserved(self, count):
        self.forward(count)

    @precondition(lambda self: self.scratch)
    @rule(data=st.data())
    def commit_a_path(self, data):
        indices = st.integers(0, min(len(self.scratch), 12) - 1) | st.integers(0, len(self.scratch) - 1)
        rows = sorted(data.draw(st.sets(indices, max_size=6)))
        self.commit(rows)

    @precondition(lambda self: self.scratch)
    @rule()
    def commit_everything(self):
        self.commit(list(range(len(self.scratch))))

    @rule()
    def commit_nothing(self):
        self.commit([])

    def commit(self, rows):
        self.cache.commit(rows)
        self.committed += [self.scratch[row] for row in rows]
        self.scratch, self.returned = [], None

    @invariant()
    def committed_rows_are_those_of_the_list(self):
        assert (self.cache.length, self.cache.scratch) == (len(self.committed), len(self.scratch))
        assert self.cache.get_seq_length() == len(self.committed)
        for layer, (positions, keys, values) in enumerate(self.cache.committed()):
            assert positions.tolist() == [list(range(len(self.committed)))]
            expected, negative = states(self.committed, layer)
            assert torch.equal(keys, expected[0])
            assert torch.equal(values, negative[0])

    @invariant()
    def a_forward_sees_committed_then_scratch_rows(self):
        for layer, (keys, values) in enumerate(self.returned or []):
            expected, negative = states(self.committed + self.scratch, layer)
            assert torch.equal(keys, expected)
            assert torch.equal(values, negative)

    @invariant()
    def bytes_are_those_of_the_buffers(self):
        one = 2 * HEADS * WIDTH * 8 * LAYERS
        used = one * (len(self.committed) + len(self.scratch))
        rows = [layer.keys.shape[2] for layer in self.cache.initialized]
        tables = sum(table.bytes for table in self.cache.tables)
        assert used <= self.cache.bytes == tables + one // LAYERS * sum(rows) <= self.cache.peak
        assert all(count % GROWTH == 0 for count in rows)


TestCache = Machine.TestCase


def test_a_forward_after_a_rejection_overwrites_what_was_rejected():
    cache = TreeCache(1)
    for ids, kept in (([1, 2, 3], [0, 2]), ([4, 5], [1])):
        cache.extend(len(ids))
        keys, _ = cache.update(*states(ids, 0), 0)
        cache.commit(kept)
    assert keys[0, 0, :, 0].tolist() == [1, 3, 5, 5]  # row 2 was committed in place
    assert cache.committed()[0][1][0, :, 0].tolist() == [1, 3, 5]


ODD = [(2, 3, 5, torch.float32), (1, 4, 4, torch.bfloat16), (3, 1, 7, torch.float64)]


def filled(counts, scratch):
    """A cache whose layers differ in heads, widths and dtype, and hold `counts` committed rows."""
    rng = torch.Generator().manual_seed(0)
    cache = TreeCache(len(ODD))
    cache.extend(scratch)
    groups = []
    for index, ((heads, width, value_width, dtype), count) in enumerate(zip(ODD, counts, strict=True)):
        rows = torch.rand(1, heads, count + scratch, width + value_width, generator=rng).to(dtype)
        keys, values = rows.split([width, value_width], -1)
        layer = cache.layers[index]
        layer.lazy_initialization(keys, values)
        table = PositionTable(1, None, torch.device("cpu"))
        table.append(0, count)
        groups.append(LayerGroup([layer], table, QueryLog.empty(1)))
        layer.update(keys[:, :, count:], values[:, :, count:])
        layer.keys[:, :, : count + scratch], layer.values[:, :, : count + scratch] = keys, values
    cache.groups = groups
    cache.changed()
    return cache


@pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
@given(counts=st.tuples(*[st.integers(0, 70)] * 3), scratch=st.integers(1, 9), data=st.data())
def test_kernels_move_what_pytorch_moves(counts, scratch, data):
    """Bit by bit, whatever each layer holds."""
    path = sorted(data.draw(st.sets(st.integers(0, scratch - 1))))
    held = []
    for isa in ("best", None):
        cache = filled(counts, scratch)
        with native.using(isa):
            cache.commit(path)
        held.append([(layer.keys, layer.values) for layer in cache.layers])
    for (layer, count), *both in zip(zip(cache.layers, counts, strict=True), *held, strict=True):
        assert layer.table.count == count + len(path)
        for ours, theirs in zip(*both, strict=True):
            kept = count + len(path)
            assert torch.equal(ours[:, :, :kept], theirs[:, :, :kept])


@pytest.mark.parametrize("isa", ["best", None])
def test_a_path_moves_where_rows_lie_now(isa):
    """Also after the buffers were replaced by larger ones."""
    with native.using(isa):
        machine = Machine()
        for _ in range(2):
            machine.forward(4)
            machine.commit([0, 2])
            machine.forward(3 * GROWTH)
            machine.commit([1, 2 * GROWTH])
        held = machine.cache.committed()
    for layer, (_, keys, _) in enumerate(held):
        assert torch.equal(keys[None], states(machine.committed, layer)[0])


def test_rows_that_were_taken_lie_elsewhere():
    """The kernels move the rows of the new buffers."""
    cache = filled((3, 3, 3), 2)
    cache.commit([1])
    layer = cache.layers[0]
    layer.take(layer.keys, layer.values, torch.arange(4)[None])
    cache.extend(2)
    layer.reserve(6)
    layer.keys[:, :, 5] = 7.0
    cache.commit([1])
    assert (layer.keys[:, :, 4] == 7.0).all()


@pytest.mark.parametrize("rows", [[0, 3], [-1], [1, 1], [0, 2, 1], [5000]])
def test_what_is_no_path_is_refused(rows):
    cache = TreeCache(1)
    cache.extend(3)
    cache.update(*states([1, 2, 3], 0), 0)
    with pytest.raises(StrategyError, match="are no path among 3 scratch rows"):
        cache.commit(rows)


@pytest.mark.parametrize("rows", [[], [0], [0, 2], [0, 2, 3]])
def test_rows_that_a_whole_step_has_placed_stay_where_they_are(rows):
    cache = TreeCache(1)
    cache.extend(4, placed=[0, 2, 3])
    cache.update(*states([1, 3, 4, 9], 0), 0)
    cache.commit(rows)
    [(_, keys, _)] = cache.committed()
    assert torch.equal(keys, states([1, 3, 4], 0)[0][0, :, : len(rows)])
    cache.extend(2)  # another pass
    cache.update(*states([5, 6], 0), 0)
    cache.commit([1])
    assert torch.equal(cache.committed()[0][1][:, -1:], states([6], 0)[0][0])


def test_a_path_other_than_the_placed_one_is_an_error():
    cache = TreeCache(1)
    cache.extend(4, placed=[0, 2, 3])
    cache.update(*states([1, 3, 4, 9], 0), 0)
    with pytest.raises(StrategyError, match="that a whole step accepted"):
        cache.commit([0, 1])


@pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
def test_the_comparison_notices_a_row_that_was_not_moved(monkeypatch):
    monkeypatch.setattr(native.Library, "move", lambda *_: None)
    with pytest.raises(AssertionError):
        test_kernels_move_what_pytorch_moves()


def test_a_commit_of_nothing_forgets_the_logged_queries_of_drafts():
    cache = TreeCache(1)
    cache.extend(2)
    cache.update(*states([1, 2], 0), 0)
    cache.layers[0].log(torch.zeros(HEADS, 2, WIDTH))
    cache.commit([])
    queries = cache.groups[0].queries
    assert (queries.drafted, queries.committed.shape) == (False, (HEADS, 0, WIDTH))
