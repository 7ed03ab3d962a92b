"""Logits processors: each node's logits are those that AR would have after the tokens on its path."""

import random
from typing import ClassVar

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from toolkit import Drafter, Pipeline, Pool, Sampling, engine, verify
from toolkit.conformance.models import VOCABULARY, tiny
from toolkit.logits_processing import process_nodes
from toolkit.tree import Candidates, TokenTree

PROMPT = [5, 9, 33, 4, 9, 33]
PROCESSORS = LogitsProcessorList(
    [
        RepetitionPenaltyLogitsProcessor(1.3),
        NoRepeatNGramLogitsProcessor(2),
        NoBadWordsLogitsProcessor([[7], [9, 3]]),
        MinNewTokensLengthLogitsProcessor(len(PROMPT), 4, torch.tensor([3])),
    ]
)


def random_tree(seed, nodes=12):
    draw, tree = random.Random(seed), TokenTree.root(33)
    while len(tree) < nodes:
        tree = tree.grow([draw.randrange(len(tree))], Candidates([[draw.randrange(10)]], [[-1.0]]))
    return tree


@given(seed=st.integers(0, 1000))
def test_a_nodes_logits_are_those_after_its_path(seed):
    tree = random_tree(seed)
    logits = torch.randn(len(tree), VOCABULARY, generator=torch.Generator().manual_seed(seed))
    got = process_nodes(PROCESSORS, PROMPT, tree, logits.clone())
    for node in range(len(tree)):
        path, above = [], node
        while above:
            path, above = [tree.tokens[above], *path], tree.parents[above]
        expected = PROCESSORS(torch.tensor([PROMPT + path]), logits[node : node + 1].clone())
        assert torch.equal(got[node], expected[0])


def test_a_processor_may_change_logits_in_place():
    logits = torch.zeros(1, VOCABULARY)
    process_nodes(lambda ids, scores: scores.add_(1), PROMPT, TokenTree.root(33), logits)
    assert not logits.any()


@attrs.define
class Knowing(Drafter):
    """Proposes what AR says next, and another token."""

    name = "knowing"
    tokens: ClassVar[list[int]] = []
    _length: int = attrs.field(init=False, default=0)

    def start(self, prompt, runtime):
        self._length = len(prompt)

    def expand(self, tree, frontier, k):
        next_ones = [self.tokens[self._length + tree.depths[node] + 1 :][:1] for node in frontier]
        return Candidates(
            [[*it, 7] for it in next_ones], [[-0.1] * len(it) + [-2.0] for it in next_ones]
        )

    def commit(self, tokens):
        self._length += len(tokens)


def once_per_step(processor, committed, tree, logits):
    """The fault: every node has the history of the root."""
    if processor is None:
        return logits
    ids = torch.tensor([committed])
    return torch.cat([processor(ids, row[None].clone()) for row in logits.float()])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.5)], ids=str)
@pytest.mark.parametrize("process", [process_nodes, once_per_step])
def test_tokens_are_those_of_ar(monkeypatch, sampling, process):
    pool = Pool(modules={"it": tiny("llama", 1, ())})
    drafted = Pipeline("it", drafter=Knowing, shaper="fixed", sampling=sampling, pool=pool)
    wrong = 0
    for seed in range(4):
        monkeypatch.setattr(engine, "process_nodes", process_nodes)
        ar = drafted.autoregressive.stream(
            PROMPT, max_new_tokens=24, seed=seed, processor=PROCESSORS
        )
        list(ar)
        Knowing.tokens = PROMPT + ar.result.token_ids
        monkeypatch.setattr(engine, "process_nodes", process)
        ours = drafted.stream(PROMPT, max_new_tokens=24, seed=seed, processor=PROCESSORS)
        list(ours)
        wrong += ours.result.token_ids != ar.result.token_ids
        assert any(step.nodes > 1 for step in ours.result.steps)
    assert (wrong > 0) == (process is once_per_step)


def test_verify_takes_the_processor():
    pipeline = Pipeline(tiny("llama", 1, ()), drafter="ngram")
    stream = pipeline.stream(PROMPT, max_new_tokens=24, processor=PROCESSORS)
    list(stream)
    assert verify(pipeline, stream.result, PROCESSORS).verdict in ("exact", "inconclusive")
    assert verify(pipeline, stream.result).verdict == "divergent"
