"""The log of queries of several layers, against lists."""

import torch

from toolkit.runtime.kv.query_log import QueryLog


def queries(layer, first, count):
    """Two heads' queries; a number says layer, head and row."""
    rows = torch.arange(first, first + count, dtype=torch.float64)
    return (layer * 100 + torch.tensor([0.0, 50.0])[:, None] + rows)[..., None]


def test_committed_rows_stay_whatever_passes_they_came_from():
    log = QueryLog.empty(2)
    for first, count in ((0, 3), (3, 2)):
        for layer in (1, 0):
            log.add(layer, queries(layer, first, count))
    assert log.drafted
    log.commit([0, 2, 4])
    assert not log.drafted
    for layer in (0, 1):
        log.add(layer, queries(layer, 5, 2))
    log.commit([1])
    assert log.committed[..., 0].tolist() == [
        [start + row for row in (0, 2, 4, 6)] for start in (0, 50, 100, 150)
    ]
    assert log.bytes == 4 * 4 * 8


def test_a_commit_may_keep_nothing():
    log = QueryLog.empty(1)
    log.add(0, queries(0, 0, 2))
    log.commit([])
    assert (log.drafted, log.committed.shape) == (False, (2, 0, 1))


def test_what_is_taken_is_gone_and_later_rows_stay():
    log = QueryLog.empty(1)
    assert log.take(0) is None
    log.add(0, queries(0, 0, 5))
    log.commit([*range(5)])
    assert log.take(2)[0, :, 0].tolist() == [0, 1, 2]
    assert log.committed[0, :, 0].tolist() == [3, 4]


def test_a_part_has_the_queries_of_its_layers():
    log = QueryLog.empty(3)
    assert log.part([0]).committed is None
    for layer in range(3):
        log.add(layer, queries(layer, 0, 1))
    log.commit([0])
    part = log.part([0, 2])
    assert part.committed[:, 0, 0].tolist() == [0, 50, 200, 250]
    assert len(part.scratch) == 2
