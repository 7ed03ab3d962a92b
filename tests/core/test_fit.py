"""How a drafter chooses its candidates: as it declares, and as the verifier's proof covers."""

import pytest

from toolkit import Limits, Pipeline, Sampling
from toolkit.errors import MismatchError
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


@pytest.mark.parametrize(
    ("limits", "said"),
    [(Limits(max_nodes=20), "growmap:tree=4x2x1 has 21 nodes, root included, but max_nodes=20"),
     (Limits(7), "growmap:tree=4x2x1 has 8 nodes, on its widest level, but max_nodes_per_level=7")],
)  # fmt: skip
@pytest.mark.parametrize("shaper", ["growmap:4x2x1", "select:[chain]+[growmap:4x2x1]"])
def test_a_map_with_more_nodes_than_the_limits_is_refused(limits, said, shaper):
    with pytest.raises(MismatchError, match=f"{said}: name a smaller map or plan one"):
        Pipeline(shaper=shaper, limits=limits)


def test_a_map_within_the_limits_and_one_that_nobody_named_are_taken():
    Pipeline(shaper="growmap:4x2x1", limits=Limits(8, 21))
    ours = Pipeline(verifier="swor", sampling=Sampling(0.7), limits=Limits(max_nodes=3))
    assert ours.shaper.cls.name == "growmap"
    steps = ours.generate("Once", max_new_tokens=8).steps
    assert max(step.nodes for step in steps) == 3
