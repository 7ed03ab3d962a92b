"""How a drafter chooses its candidates: as it declares, and as the verifier's proof covers."""

import pytest

from toolkit import Sampling
from toolkit.fit import make_proposer


@pytest.mark.parametrize(
    ("drafter", "verifier", "how"),
    [
        ("model:a", "sampler-match", "matched"),
        ("self", "sampler-match", "matched"),
        ("staged:[model:a]+[ngram]", "sampler-match", "matched"),
        ("ngram", "sampler-match", "fixed"),
        ("staged:[ngram]+[ngram]", "sampler-match", "fixed"),
        ("model:a", "traversal", "sampled"),
        ("model:a", "specinfer", "iid"),
        ("ngram", "traversal", "fixed"),
        ("model:a", "typical", "fixed"),
    ],
)
def test_candidates_are_chosen_as_both_declare(registry, drafter, verifier, how):
    choices = registry.resolve("drafter", drafter), registry.resolve("verifier", verifier)
    assert make_proposer(*choices, Sampling(0.7), 5).how == how
    assert make_proposer(*choices, Sampling(), 5).how == "fixed"
