"""Tests of `comb`: those of every KV policy, and its own."""

import torch
from toolkit_comb import Comb

from toolkit import Registry
from toolkit.conformance import conforms

# The test texts are short, so these options are small enough to hide something in each.
test_comb = conforms("comb:first=1,every=3,last=2")


def test_the_beginning_the_teeth_and_the_latest():
    positions = torch.arange(8)
    comb = Comb(first=2, every=3, last=2)
    visible = comb.visible(positions[:, None], positions[None, :])
    assert visible[7].tolist() == [True, True, False, True, False, False, True, True]


def test_a_large_window_hides_nothing():
    positions = torch.arange(60)
    past = positions[:, None] >= positions[None, :]
    assert Comb().visible(positions[:, None], positions[None, :])[past].all()


def test_it_comes_from_this_package():
    assert Registry.installed().entries["kv", "comb"].distribution == "toolkit-comb"
