"""The measured limit."""

import torch
from toolkit.bench import bandwidth


def test_it_is_a_rate_that_memory_can_have():
    assert 1e8 < bandwidth.measured(torch.device("cpu")) < 1e13


def test_the_best_pass_counts(monkeypatch):
    """Passes of 2, 1 and 4 seconds over a gigabyte give one gigabyte per second."""
    clock = iter([0.0, 2.0, 2.0, 3.0, 3.0, 7.0])
    monkeypatch.setattr(bandwidth, "ROUNDS", 3)
    monkeypatch.setattr(bandwidth, "BYTES", {"cpu": 4_000})
    monkeypatch.setattr(bandwidth, "perf_counter", lambda: next(clock))
    assert bandwidth.measured(torch.device("cpu")) == 4_000
