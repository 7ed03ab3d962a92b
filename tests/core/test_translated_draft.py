"""Drafting across tokenizers: exact, a function of the committed text, and right where the model is."""

import json
import random
from functools import cached_property

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saboteurs.verifiers import OneTooMany
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from toolkit import Candidates, Sampling, TokenTree, TranslatedDraft, translated_draft
from toolkit.engine import Strategies, decode
from toolkit.runtime.models.translation import translation_between

TEXT = (
    "the old sailor said that she had seen the sea and the ship, and that he had not. one day the "
    "whale swam to the shore “so long ago”, said the other sailor. nothing was seen of them again… "
)


def trained(size, seed=0, spaces="bytes"):
    """A tokenizer of `size` tokens, whose ids are shuffled by `seed`."""
    inner = Tokenizer(models.BPE(byte_fallback=spaces == "metaspace"))
    if spaces == "bytes":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder, alphabet = decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet()
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        inner.decoder, alphabet = decoders.Metaspace(prepend_scheme="first"), []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([TEXT] * 2, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=_shuffled(inner, seed), eos_token="<end>")


def _shuffled(inner, seed):
    told = json.loads(inner.to_str())
    ids = list(range(inner.get_vocab_size()))
    random.Random(seed).shuffle(ids)
    told["model"]["vocab"] = {token: ids[at] for token, at in told["model"]["vocab"].items()}
    for token in told["added_tokens"]:
        token["id"] = ids[token["id"]]
    return Tokenizer.from_str(json.dumps(told))


TARGET = trained(330)
DRAFTERS = {
    "other ids": trained(330, seed=1),
    "shorter": trained(270, seed=2),
    "bytes": trained(257, seed=3),
    "longer": trained(420, seed=4),
    "marked spaces": trained(90, seed=5, spaces="metaspace"),
}
PROMPT = TARGET("the old sailor said").input_ids
SHAPERS = ["chain:k=3", "budget", "adaptive", "growmap:3x2x1"]


@attrs.frozen
class Speaker:
    """A model, as far as its tokens matter."""

    name: str
    tokenizer: PreTrainedTokenizerFast

    @property
    def vocabulary(self):
        return len(self.tokenizer)


def translation_to(drafter):
    return translation_between(Speaker("big", TARGET), Speaker("small", drafter))


@attrs.frozen(slots=False)
class Reciter:
    """A language model that recites `TEXT` after any beginning of it, in its own tokens."""

    tokenizer: PreTrainedTokenizerFast

    @property
    def vocabulary(self):
        return len(self.tokenizer)

    @cached_property
    def whole(self):
        return self.tokenizer(TEXT * 2).input_ids

    def logits(self, text):
        said = [token for token in text if token not in self.tokenizer.all_special_ids]
        logits = torch.zeros(self.vocabulary, dtype=torch.float64)
        if self.whole[: len(said)] == said:
            logits[self.whole[len(said)]] = 20.0
        return logits

    def greedy(self, prompt, count):
        return self.whole[len(prompt) : len(prompt) + count]


@pytest.fixture(scope="module")
def decoded(make, hash_session, hash_runtime):
    """`decoded(target, model, tokenizer, …)`: the events of a request with a translated drafter."""

    def run(target, model, tokenizer, shaper="budget", verifier=None, prompt=PROMPT, count=30):
        @attrs.define(eq=False)
        class Translating(hash_runtime):
            def translation(self, model):
                return translation_to(tokenizer)

        session = hash_session(target)
        runtime = Translating(model, target.vocabulary, target=session)
        strategies = Strategies(
            make("drafter", "model:small"),
            make("shaper", shaper),
            verifier or make("verifier", "greedy"),
        )
        return list(decode(
            session, runtime, strategies, prompt, max_new_tokens=count, ends=lambda _: False,
            sampling=Sampling(), seed=0,
        ))  # fmt: skip

    return run


def tokens_of(events):
    return [token for event in events for token in event.tokens]


def test_which_vocabularies_are_shared():
    drafted_by_token = {n for n, tokenizer in DRAFTERS.items() if translation_to(tokenizer).shared}
    assert drafted_by_token == {"other ids", "shorter", "bytes", "longer"}
    ours, theirs = translation_to(DRAFTERS["longer"]).shared
    for one, other in zip(ours, theirs, strict=True):
        assert TARGET.decode(one) == DRAFTERS["longer"].decode(other)


@given(
    seed=st.integers(0, 99),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    by_text=st.booleans(),
    shaper=st.sampled_from(SHAPERS),
    prompt=st.lists(st.integers(0, len(TARGET) - 1), min_size=1, max_size=12),
)
def test_tokens_are_those_of_the_target(
    decoded, hash_model, seed, drafter, by_text, shaper, prompt
):
    """Whatever the tokenizers, with a target that says any tokens, and special ones among them."""
    target, tokenizer = hash_model(seed, vocabulary=len(TARGET)), DRAFTERS[drafter]
    model = hash_model(seed + 1, vocabulary=len(tokenizer))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.runtime.models.translation.ENOUGH", 9 if by_text else 0.5)
        events = decoded(target, model, tokenizer, shaper, prompt=prompt, count=12)
    assert tokens_of(events) == target.greedy(prompt, 12)


@pytest.mark.parametrize("shaper", ["chain:k=3", "budget:nodes=6"])
@pytest.mark.parametrize("by_text", [False, True])
@pytest.mark.parametrize("drafter", sorted(DRAFTERS))
def test_a_drafter_that_knows_the_text_is_right(monkeypatch, decoded, drafter, by_text, shaper):
    """Where both have the tokens, or by text, every chain is accepted."""
    monkeypatch.setattr("toolkit.runtime.models.translation.ENOUGH", 9 if by_text else 0.5)
    tokenizer = DRAFTERS[drafter]
    events = decoded(Reciter(TARGET), Reciter(tokenizer), tokenizer, shaper, count=20)
    assert tokens_of(events) == Reciter(TARGET).greedy(PROMPT, 20)
    steps = [event.step for event in events if event.step]
    by_text = by_text or translation_to(tokenizer).shared is None
    if drafter == "other ids" or by_text:
        assert sum(step.accepted for step in steps) >= 0.8 * sum(step.depth for step in steps) > 0


def test_a_verifier_that_believes_drafts_is_caught(decoded, hash_model):
    """The control: drafts differ from the target's tokens, so accepting one too many shows."""
    target, tokenizer = hash_model(0, vocabulary=len(TARGET)), DRAFTERS["marked spaces"]
    model = hash_model(1, vocabulary=len(tokenizer))
    events = decoded(target, model, tokenizer, verifier=OneTooMany())
    assert tokens_of(events) != target.greedy(PROMPT, 30)


def drafts_after_steps(start, tokenizer, model, steps):
    """Candidates after random trees and commits, and those of a new draft of the same text."""
    text = list(PROMPT)
    draft = start(tokenizer, model, text)
    for drafted, committed in steps:
        tree = TokenTree.root(committed[0])
        for token in drafted:
            draft.candidates_after(tree, [len(tree) - 1], 2)
            tree = tree.grow([len(tree) - 1], Candidates([[token]], [[-1.0]]))
        draft.commit(committed)
        text += committed
    root = TokenTree.root(PROMPT[-1])
    return [d.candidates_after(root, [0], 3) for d in (draft, start(tokenizer, model, text))]


@pytest.fixture(scope="module")
def start(hash_session):
    return lambda tokenizer, model, text: TranslatedDraft.start(
        hash_session(model), text, translation_to(tokenizer), len(TARGET)
    )


TOKENS = st.integers(0, len(TARGET) - 1)
STEPS = st.lists(
    st.tuples(st.lists(TOKENS, max_size=3), st.lists(TOKENS, min_size=1, max_size=4)),
    min_size=1, max_size=12,
)  # fmt: skip


@given(seed=st.integers(0, 99), drafter=st.sampled_from(sorted(DRAFTERS)), steps=STEPS)
def test_candidates_depend_on_committed_text_alone(start, hash_model, seed, drafter, steps):
    tokenizer = DRAFTERS[drafter]
    model = hash_model(seed, vocabulary=len(tokenizer))
    ours, fresh = drafts_after_steps(start, tokenizer, model, steps)
    assert ours.tokens == fresh.tokens
    assert ours.logprobs == [pytest.approx(row) for row in fresh.logprobs]


def test_committing_tokens_that_still_change_is_caught(monkeypatch, start, hash_model):
    """The control: without tokens that are held back, a token at the end of a step stays in the cache
    when the next step's text makes it another one."""
    letters = ["Ġ" if letter == " " else letter for letter in " the old sailor had seen the sea"]
    steps = [([], [token]) for token in TARGET.convert_tokens_to_ids(letters)]
    found = []
    for held in (translated_draft.HELD_BACK, 0):
        monkeypatch.setattr(translated_draft, "HELD_BACK", held)
        monkeypatch.setattr(translated_draft, "LONGEST_TAIL", 32 if held else 0)
        found.append(
            [
                drafts_after_steps(
                    start, DRAFTERS["longer"], hash_model(0, vocabulary=420), steps[:end]
                )
                for end in range(1, len(steps))
            ]
        )
    differ = [sum(ours.tokens != fresh.tokens for ours, fresh in pairs) for pairs in found]
    assert differ[0] == 0 < differ[1]


def test_a_character_of_which_bytes_are_missing_is_waited_for(start):
    """Half of a “ is committed: nothing is drafted after it, and drafts go on after the other half."""
    tokenizer, before = DRAFTERS["shorter"], TARGET(TEXT[: TEXT.index("“")]).input_ids
    single = trained(257)
    halves = TARGET.convert_tokens_to_ids(single.convert_ids_to_tokens(single("“").input_ids))
    draft = start(tokenizer, Reciter(tokenizer), before)
    assert draft.candidates_after(TokenTree.root(halves[0]), [0], 1).tokens == [[]]
    draft.commit(halves[:2])
    so = Reciter(TARGET).greedy(before, 9)
    assert draft.candidates_after(TokenTree.root(halves[2]), [0], 1).tokens[0][0] in so


def test_beyond_its_positions_it_proposes_nothing(hash_session, hash_model):
    tokenizer = DRAFTERS["bytes"]
    model = hash_model(0, vocabulary=len(tokenizer))
    for positions in (1, 5, 19, 20, 24):
        draft = TranslatedDraft.start(
            hash_session(model, positions), PROMPT, translation_to(tokenizer), len(TARGET)
        )
        for token in TARGET(TEXT).input_ids[len(PROMPT) :]:
            last = draft.candidates_after(TokenTree.root(token), [0], 2)
            draft.commit([token])
        assert last.tokens == [[]]
