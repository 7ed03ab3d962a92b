"""The fastest kernel is chosen among those that are batch-invariant."""

import copy
import itertools

import pytest
import torch

from toolkit.conformance.models import tiny
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.compute.linears.batch_invariance import RowRule
from toolkit.runtime.compute.linears.kernels import Blocked, Packed, Stock
from toolkit.runtime.kernels import native


@pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
def test_the_fastest_kernel_is_chosen_among_the_batch_invariant(monkeypatch):
    module = copy.deepcopy(tiny("llama")).float()
    multiples, took = {Stock: None, Packed: 2, Blocked: 1}, {Stock: 1.0, Packed: 2.0, Blocked: 3.0}
    monkeypatch.setattr(
        fastest, "seconds", lambda _, rules: {kernel: took[kernel] for kernel in rules}
    )
    monkeypatch.setattr(fastest, "_row_multiple", lambda _, kernel: multiples[kernel])
    assert fastest._fastest(module) is Packed
    took[Packed] = 3.0 - 1e-6  # slower than ours with what is spared around each of 15 linears
    assert fastest._fastest(module) is Blocked
    multiples[Stock] = 2
    assert fastest._fastest(module) is Stock
    multiples.update({Stock: None, Packed: None, Blocked: None})
    assert fastest._fastest(module) is Stock


def test_kernels_take_turns_and_their_least_times_add_up(monkeypatch):
    """Over weights and counts of rows; what disturbs one turn does not count."""
    turns, clock = [], itertools.cycle([3.0, 4.0, 1.0, 2.0, 5.0, 6.0])
    monkeypatch.setattr(fastest, "REPEATS", 3)
    monkeypatch.setattr(
        fastest, "_timed", lambda kernel, _: (turns.append(type(kernel)), next(clock))[1]
    )
    weights = [(torch.randn(32, 32), 1), (torch.randn(64, 32), 5)]
    took = fastest.seconds(weights, {Stock: RowRule(1), Packed: RowRule(1)})
    assert took == {Stock: 12 * 1.0, Packed: 12 * 2.0}
    assert turns == [Stock, Packed] * 12
