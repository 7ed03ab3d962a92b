"""Where a drafter's candidates are chosen."""

from types import SimpleNamespace

import torch

from toolkit import TokenTree
from toolkit.runtime.draft_runtime import DraftRuntime


class Keeps:
    """A proposer that keeps what it gets."""

    def candidates(self, tree, frontier, logits, k, **how):
        self.logits = logits


def test_candidates_are_chosen_on_the_targets_device():
    """Where its logits processors are; laws that children are drawn from are compared with its law. The
    meta device stands in for another GPU than the drafter's."""
    elsewhere = torch.device("meta")
    target = SimpleNamespace(model=SimpleNamespace(device=elsewhere), length=3, vocabulary=5)
    proposer = Keeps()
    runtime = DraftRuntime(None, target, None, proposer)
    runtime.candidates(TokenTree.root(1), [0], torch.zeros(1, 5), 2)
    assert proposer.logits.device == elsewhere
