"""A level of the drafter as graphs. Tapes stand in for CUDA graphs, and times are invented."""

import copy

import gpu_timing
import pytest
import torch
from gpu_goals import LEVEL
from gpu_results import Results, read_rows
from tape import Tape

from toolkit.conformance.models import tiny
from toolkit.runtime.compute.executors import captured
from toolkit.runtime.models.load import prepare


@torch.no_grad()
@pytest.mark.parametrize("captures", [True, False])
def test_a_level_is_a_pass_and_its_likeliest_tokens(monkeypatch, tmp_path, captures):
    """Nothing is said where nothing is captured."""
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape() if captures else None)
    executors = [prepare(name, copy.deepcopy(tiny("llama")).double()).executor for name in "ab"]
    replays, times = [], iter((3.0, 60.0))

    def least_ms(run, times_of_one=1):
        run()
        replays.append(times_of_one)
        return next(times)

    monkeypatch.setattr(gpu_timing, "least_ms", least_ms)
    gpu_timing.measure_level(Results("speed", tmp_path, rehearse=True), *executors)
    found = [(row["subject"], row["value"]) for row in read_rows(tmp_path, ["speed"])]
    assert found == ([(f"{LEVEL}, as graphs", 0.05)] if captures else [])
    assert replays == ([10, 10] if captures else [])
