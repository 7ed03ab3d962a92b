"""The machine in words."""

import pytest
from toolkit.bench.machine import machine

RUN = {"cpu": "A Good CPU", "device": "cpu", "threads": 2, "isa": "avx2", "torch_isa": "AVX512"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "A Good CPU, CPU threads: 2, instruction set: avx2 in our kernels, AVX512 in PyTorch"),
        ({"isa": None}, "instruction set: none of our kernels, AVX512 in PyTorch"),
        ({"device": "A Good GPU"}, "A Good GPU, on the host A Good CPU, CPU threads"),
    ],
)
def test_it_has_its_instruction_sets(changes, words):
    assert words in machine(RUN | changes)
