"""The machine: its description and its memory bandwidth."""

import pytest
import torch
from toolkit.bench import machine
from toolkit.bench.machine import describe_machine, measure_bandwidth

RUN = {"cpu": "A Good CPU", "device": "cpu", "threads": 2, "isa": "avx2", "torch_isa": "AVX512"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "A Good CPU, CPU threads: 2, instruction set: avx2 in our kernels, AVX512 in PyTorch"),
        ({"isa": None}, "instruction set: none of our kernels, AVX512 in PyTorch"),
        ({"device": "A Good GPU"}, "A Good GPU, on the host A Good CPU, CPU threads"),
    ],
)
def test_the_description_has_its_instruction_sets(changes, words):
    assert words in describe_machine(RUN | changes)


def test_bandwidth_is_a_rate_that_memory_can_have():
    assert 1e8 < measure_bandwidth(torch.device("cpu")) < 1e13


def test_the_best_pass_counts(monkeypatch):
    """Passes of 2, 1 and 4 seconds over a gigabyte give one gigabyte per second."""
    clock = iter([0.0, 2.0, 2.0, 3.0, 3.0, 7.0])
    monkeypatch.setattr(machine, "PASSES", 3)
    monkeypatch.setattr(machine, "BYTES", {"cpu": 4_000})
    monkeypatch.setattr(machine, "perf_counter", lambda: next(clock))
    assert measure_bandwidth(torch.device("cpu")) == 4_000
