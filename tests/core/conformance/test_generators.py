"""The public Hypothesis strategies generate what their docstrings say."""

import torch
from hypothesis import given, settings

from toolkit.conformance import generators
from toolkit.conformance.models import VOCABULARY


@given(generators.trees(nodes=9, vocabulary=7))
def test_trees_are_sound_and_within_bounds(tree):
    assert tree.is_valid()
    assert 1 <= len(tree) <= 9
    assert 0 <= min(tree.tokens) <= max(tree.tokens) < 7
    assert max(tree.logprobs) <= 0


@given(generators.schedules(steps=4))
def test_schedules_commit_paths_of_their_trees(schedule):
    assert 1 <= len(schedule) <= 4
    for tree, path in schedule:
        assert path[0] == 0
        assert [tree.parents[node] for node in path[1:]] == path[:-1]


@given(generators.prompts())
def test_prompts_are_ids(prompt):
    assert 1 <= len(prompt) <= 24
    assert all(0 < token < VOCABULARY for token in prompt)


@settings(max_examples=5)
@given(generators.models(), generators.prompts())
def test_models_run(model, prompt):
    logits = model(torch.tensor([prompt])).logits
    assert logits.shape[-1] == VOCABULARY
    assert logits.dtype == torch.float64
