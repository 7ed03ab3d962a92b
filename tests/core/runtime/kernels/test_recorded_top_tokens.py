"""Recorded or not, the likeliest tokens are the same. Tapes stand in for CUDA graphs."""

import pytest
import torch
from tape import Tape

from toolkit.runtime.kernels import recorded_top_tokens
from toolkit.runtime.kernels.recorded_top_tokens import MOST_ROWS, OFTEN, RecordedTopTokens
from toolkit.runtime.kernels.triton.top_tokens import packed_top_tokens

SHAPES = [(1, 40), (3, 40), (4, 40), (3, 41), (16, 40)]


@pytest.fixture
def records(monkeypatch):
    made = []

    class Counts(Tape):
        def record(self, run):
            made.append(run)
            return super().record(run)

    tapes = [Counts()]  # asked for once, since what one records shares memory
    monkeypatch.setattr(recorded_top_tokens, "recorder_for", lambda _: tapes.pop())
    return made


def test_it_gives_what_the_kernels_give(records):
    """For logits of several shapes in turn, strided ones too."""
    find, rng = RecordedTopTokens().find, torch.Generator().manual_seed(0)
    for turn in range(3 * OFTEN):
        for rows, vocabulary in SHAPES:
            for k in (1, 2):
                logits = torch.randn(rows, vocabulary + turn % 2, generator=rng)[:, :vocabulary]
                assert torch.equal(find(logits, k), packed_top_tokens(logits, k))
    # 3 and 4 rows share a recording
    assert len(records) == 2 * (len(SHAPES) - 1)


def test_what_seldom_comes_and_many_rows_are_not_recorded(records):
    find = RecordedTopTokens().find
    for _ in range(OFTEN - 1):
        find(torch.randn(2, 9), 2)
    for _ in range(2 * OFTEN):
        find(torch.randn(MOST_ROWS + 1, 9), 2)
    assert records == []
    find(torch.randn(2, 9), 2)
    assert len(records) == 1


def test_a_few_recordings_are_kept(records, monkeypatch):
    monkeypatch.setattr(recorded_top_tokens, "MOST", 2)
    recorded, sizes = RecordedTopTokens(), (9, 10, 11, 9)
    for vocabulary in sizes:
        for _ in range(OFTEN):
            logits = torch.randn(2, vocabulary)
            assert torch.equal(recorded.find(logits, 2), packed_top_tokens(logits, 2))
    assert len(records) == len(sizes)  # the first one anew
    assert len(recorded._recorded) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_where_nothing_records_kernels_are_launched(monkeypatch, fails):
    class Refuses(Tape):
        def record(self, run):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(
        recorded_top_tokens, "recorder_for", lambda _: Refuses() if fails else None
    )
    find, logits = RecordedTopTokens().find, torch.randn(2, 9)
    for _ in range(2 * OFTEN):
        assert torch.equal(find(logits, 2), packed_top_tokens(logits, 2))


def test_recordings_outlive_a_caller_s_inference_mode(records):
    find, logits = RecordedTopTokens().find, torch.randn(2, 9)
    for turn in range(2 * OFTEN):
        with torch.inference_mode(turn <= OFTEN):
            assert torch.equal(find(logits, 2), packed_top_tokens(logits, 2))
    assert len(records) == 1


def test_a_recording_reads_what_it_is_given(records, monkeypatch):
    """The control: one that always reads the same logits is noticed by the test above."""
    monkeypatch.setattr(
        recorded_top_tokens.Recorded, "__call__", lambda self, _: (self.replay(), self.result)[1]
    )
    with pytest.raises(AssertionError):
        test_it_gives_what_the_kernels_give(records)
