"""Logits processors: each node's logits are those that AR would have after the tokens on its path."""

import copy
import random
from typing import ClassVar

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    EncoderRepetitionPenaltyLogitsProcessor,
    GenerationConfig,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from toolkit import Drafter, Pipeline, Pool, Sampling, verify
from toolkit.conformance.models import VOCABULARY, tiny
from toolkit.logits_processing import PathProcessor, join
from toolkit.runtime.models.model_defaults import ModelDefaults
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
    nodes = random.Random(seed).sample(range(len(tree)), 5)
    got = PathProcessor(PROMPT, join(PROCESSORS))(tree, nodes, logits[nodes])
    for row, node in enumerate(nodes):
        path, above = [], node
        while above:
            path, above = [tree.tokens[above], *path], tree.parents[above]
        expected = PROCESSORS(torch.tensor([PROMPT + path]), logits[node : node + 1].clone())
        assert torch.equal(got[row], expected[0])


def test_a_processor_may_change_logits_in_place():
    logits = torch.zeros(1, VOCABULARY)
    process = PathProcessor(PROMPT, join(lambda ids, scores: scores.add_(1)))
    process(TokenTree.root(33), [0], logits)
    assert not logits.any()


EVERY = {
    "min_length": 20, "repetition_penalty": 1.3, "encoder_repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2, "bad_words_ids": [[7], [9, 3]],
    "sequence_bias": [[[4], 0.5], [[9, 33], -1.5]], "forced_bos_token_id": 3,
    "exponential_decay_length_penalty": (1, 1.5), "suppress_tokens": [8],
    "begin_suppress_tokens": [9], "remove_invalid_values": True, "renormalize_logits": True,
}  # fmt: skip


@pytest.mark.parametrize("option", EVERY)
def test_many_rows_are_processed_as_each_alone(option):
    """Bit by bit, for each of `generate`'s processors: so nodes of one depth may go together."""
    config = GenerationConfig(pad_token_id=0, eos_token_id=[94], **{option: EVERY[option]})
    defaults = ModelDefaults.of("it", Pool(modules={"it": tiny("llama", 1)}).load("it"), config)
    processor = join(defaults.processors(PROMPT, torch.device("cpu")))
    generator = torch.Generator().manual_seed(1)
    for length in (1, 5, 9):
        ids = torch.randint(40, (7, length), generator=generator)
        logits = torch.randn(7, VOCABULARY, generator=generator)
        together = processor(ids, logits.clone())
        alone = [processor(ids[[row]], logits[[row]]) for row in range(7)]
        assert torch.equal(together, torch.cat(alone))


def test_processors_that_may_know_their_row_get_one_at_a_time():
    """Those of one prompt, a caller's own, and one whose function is told its place in the batch."""

    class Derived(RepetitionPenaltyLogitsProcessor):
        def __call__(self, ids, scores):
            return super().__call__(ids, scores) if len(ids) == 1 else 0 * scores

    prompt, rows = torch.tensor([PROMPT]), torch.tensor([[1, 9], [2, 9]])
    own = LogitsProcessorList(
        [Derived(1.5), EncoderRepetitionPenaltyLogitsProcessor(2.0, prompt),
         PrefixConstrainedLogitsProcessor(lambda batch, ids: [5 + batch], 1)]
    )  # fmt: skip
    process, tree = PathProcessor(PROMPT, join(own)), TokenTree.root(33)
    tree = tree.grow([0], Candidates([[1, 2]], [[-1.0, -2.0]]))
    logits = torch.ones(2, VOCABULARY)
    for row in process(tree, [1, 2], logits):
        assert row.isfinite().nonzero().tolist() == [[5]]
        assert row[5] == pytest.approx(2 / 1.5)
    assert not torch.equal(own(rows, logits)[0], own(rows, logits)[1])


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


def once_per_step(process, tree, nodes, logits):
    """The fault: every node has the history of the root."""
    return by_path(process, TokenTree.root(33), [0] * len(nodes), logits)


by_path = PathProcessor.__call__


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5)], ids=str)
@pytest.mark.parametrize("process", [by_path, once_per_step])
def test_tokens_are_those_of_ar(monkeypatch, sampling, process):
    pool = Pool(modules={"it": tiny("llama", 1, ())})
    drafted = Pipeline("it", drafter=Knowing, shaper="fixed", sampling=sampling, pool=pool)
    wrong = 0
    for seed in range(12):
        monkeypatch.setattr(PathProcessor, "__call__", by_path)
        ar = drafted.autoregressive.stream(
            PROMPT, max_new_tokens=24, seed=seed, processor=PROCESSORS
        )
        list(ar)
        Knowing.tokens = PROMPT + ar.result.token_ids
        monkeypatch.setattr(PathProcessor, "__call__", process)
        ours = drafted.stream(PROMPT, max_new_tokens=24, seed=seed, processor=PROCESSORS)
        list(ours)
        wrong += ours.result.token_ids != ar.result.token_ids
        assert any(step.nodes > 1 for step in ours.result.steps)
    assert (wrong > 0) == (process is once_per_step)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 20, 0.9)], ids=str)
@pytest.mark.parametrize("drafter", ["model:it", "self:[full]", "staged:[model:it]+[ngram]"])
def test_a_drafter_that_is_the_target_is_accepted_whole(drafter, sampling):
    """It drafts by logits that are processed as the target's are, with each node's own path."""
    pool = Pool(modules={"it": tiny("llama", 1, ())})
    pipeline = Pipeline("it", drafter=drafter, shaper="chain:3", sampling=sampling, pool=pool)
    stream = pipeline.stream(PROMPT, max_new_tokens=25, processor=PROCESSORS)
    list(stream)
    assert [step.accepted for step in stream.result.steps] == [3] * 6
    stream = pipeline.stream(PROMPT, max_new_tokens=25, processor=PROCESSORS)
    stream.drafts.proposer = attrs.evolve(stream.drafts.proposer, process=PathProcessor())
    list(stream)
    assert any(step.accepted < 3 for step in stream.result.steps[:-1])


@pytest.mark.parametrize("verifier", ["swor", "traversal", "specinfer"])
def test_drawn_candidates_come_with_the_processed_law_that_they_were_drawn_from(verifier):
    sampling = Sampling(0.8, top_k=5)
    pipeline = Pipeline(
        "it", drafter="model:it", shaper="growmap:2x1x1", verifier=verifier, sampling=sampling,
        pool=Pool(modules={"it": tiny("llama", 1, ())}),
    )  # fmt: skip
    stream = pipeline.stream(PROMPT, max_new_tokens=16, processor=PROCESSORS)
    model = copy.deepcopy(tiny("llama", 1, ()))
    model.set_attn_implementation("sdpa")
    text, laws = list(PROMPT), 0
    for event in stream.decode():
        for node, law in event.tree.laws.items() if event.tree else ():
            ids = torch.tensor([[*text, *event.tree.path_tokens(node)[1:]]])
            with torch.no_grad():
                logits = PROCESSORS(ids, model(ids).logits[:, -1])
            assert torch.allclose(law, sampling.scores(logits)[0].double().softmax(-1), atol=1e-5)
            laws += 1
        text += event.tokens
    assert laws > 12


def test_verify_takes_the_processor():
    pipeline = Pipeline(tiny("llama", 1, ()), drafter="ngram")
    stream = pipeline.stream(PROMPT, max_new_tokens=24, processor=PROCESSORS)
    list(stream)
    assert verify(pipeline, stream.result, PROCESSORS).verdict in ("exact", "inconclusive")
    assert verify(pipeline, stream.result).verdict == "divergent"
