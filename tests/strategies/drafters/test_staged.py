"""Staged drafters: the first level's own candidates, in fewer passes."""

from unittest.mock import patch

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, Pipeline, Sampling, TokenTree
from toolkit.conformance.models import noisy, tiny
from toolkit.errors import SpecError
from toolkit.fit import proposals_of
from toolkit.proposer import Proposer
from toolkit.runtime.models.pool import Pool

PROMPT = [1, 2, 3, 4]
LEVELS = {  # how a lower level compares with the first one
    "wrong": lambda model: attrs.evolve(model, seed=model.seed + 1),
    "oracle": lambda model: model,
    "alike": lambda model: attrs.evolve(model, order=model.order + 1),
}


@attrs.define(eq=False)
class Runtimes:
    """A runtime that has one hash model for each name, and whose sessions are found by name."""

    models: dict
    make: object
    runtimes: dict = attrs.field(factory=dict)
    proposer: Proposer = Proposer()
    vocabulary: int = 11
    positions: int = 1 << 30

    def session(self, name):
        held = self.make(self.models[name], self.vocabulary, self.positions)
        return self.runtimes.setdefault(name, held).session(name)

    def candidates(self, tree, frontier, logits, k, **how):
        where = {"position": len(PROMPT), "vocabulary": self.vocabulary}
        return self.proposer.candidates(tree, frontier, logits, k, **where, **how)

    def translation(self, name):
        return None

    def sessions(self, name):
        return self.runtimes[name].sessions


@pytest.fixture(scope="module")
def start(make, hash_model, hash_runtime):
    """Start a drafter on `PROMPT`; returns it and its runtime."""

    def started(spec, seed=0, how="fixed", positions=1 << 30):
        first = hash_model(seed)
        models = {"first": first} | {name: of(first) for name, of in LEVELS.items()}
        proposer = Proposer(how, Sampling(1.0), seed)
        runtime = Runtimes(models, hash_runtime, proposer=proposer, positions=positions)
        drafter = make("drafter", spec)
        drafter.start(PROMPT, runtime)
        return drafter, runtime

    return started


def spec_of(levels, ahead):
    words = "+".join(f"[{level}]" for level in ["model:first", *levels])
    return f"staged:levels={words},ahead={ahead}"


def grown(drafter, root, picks, k):
    """Grow a tree: of each level's candidates those that `picks` says (bit masks) go on."""
    tree, frontier, answers = TokenTree.root(root), [0], []
    for pick in picks:
        if not frontier:
            break
        answer = drafter.expand(tree, frontier, k)
        answers.append((answer.tokens, answer.logprobs))
        kept = [
            [i for i in range(len(row)) if pick >> ((i + slot) % 8) & 1]
            for slot, row in enumerate(answer.tokens)
        ]
        first = len(tree)
        tree = tree.grow(frontier, Candidates(
            [[row[i] for i in some] for row, some in zip(answer.tokens, kept, strict=True)],
            [[row[i] for i in some] for row, some in zip(answer.logprobs, kept, strict=True)],
        ))
        frontier = list(range(first, len(tree)))
    return tree, answers


def compare_with_first_level(start, levels, ahead, seed, steps, k, how):
    """Decode the same trees with the staged drafter and with its first level alone."""
    staged, _ = start(spec_of(levels, ahead), seed, how)
    alone, _ = start("model:first", seed, how)
    root = 5
    for picks, commit in steps:
        tree, answers = grown(staged, root, picks, k)
        other, wanted = grown(alone, root, picks, k)
        assert [tokens for tokens, _ in answers] == [tokens for tokens, _ in wanted]
        for (_, ours), (_, theirs) in zip(answers, wanted, strict=True):
            assert [pytest.approx(row) for row in theirs] == ours
        assert tree.tokens == other.tokens
        committed = [root, *commit]
        if len(tree) > 1 and commit:  # what was drafted, at times
            committed = [root, tree.tokens[1]]
        staged.commit(committed)
        alone.commit(committed)
        root = (root + 3) % 11


LOWER = st.sampled_from([*(f"model:{name}" for name in LEVELS), "ngram", "none"])
STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 255), min_size=1, max_size=5), st.lists(st.integers(0, 10), max_size=2)
    ),
    min_size=1, max_size=4,
)


@given(
    levels=st.lists(LOWER, max_size=3), ahead=st.sampled_from(["1", "2", "4"]),
    seed=st.integers(0, 20), steps=STEPS, k=st.integers(1, 3),
    how=st.sampled_from(["fixed", "sampled", "iid", "matched"]),
)
def test_candidates_are_those_of_the_first_level_alone(
    start, levels, ahead, seed, steps, k, how
):
    """Whatever the lower levels are, whichever tokens the shaper grows, drawn or not."""
    compare_with_first_level(start, levels, ahead, seed, steps, k, how)


def test_answers_of_the_level_below_are_caught(start, registry):
    """The control: a staged drafter that hands on what its lower level says."""
    staged = registry.find("drafter", "staged")

    def from_below(self, tree, frontier, k):
        return (self._fast or self._slow).expand(tree, frontier, k)

    with patch.object(staged, "expand", from_below), pytest.raises(AssertionError):
        compare_with_first_level(start, ["model:wrong"], "2", 1, [([1, 1], [])], 1, "fixed")


@pytest.mark.parametrize(("below", "passes"), [("model:oracle", 2), ("none", 6)])
def test_a_pass_of_the_first_level_answers_for_a_whole_chain(start, below, passes):
    """Six tokens: with four ahead that are right, two passes; with none, one each. In every step."""
    drafter, runtime = start(spec_of([below], "4"))
    (session,) = runtime.sessions("first")
    root = 5
    for _ in range(3):
        before = session.forwards
        tree, _ = grown(drafter, root, [1] * 6, 1)
        assert session.forwards - before == passes
        drafter.commit(tree.tokens[:-1])
        root = tree.tokens[-1]


@pytest.mark.parametrize("below", LEVELS)
def test_every_level_holds_the_committed_text(start, below):
    """Where a chain ends with the tree, no level forwards a text twice."""
    drafter, runtime = start(spec_of([f"model:{below}"], "3"))
    text, root = list(PROMPT), 5
    for _ in range(3):
        tree, _ = grown(drafter, root, [1] * 4, 1)
        drafter.commit(tree.tokens[:-1])
        text, root = text + tree.tokens[:-1], tree.tokens[-1]
    for name in ("first", below):
        (session,) = runtime.sessions(name)
        assert session.committed == text[: session.length]
        if below == "oracle":
            assert len(session.forwarded) == len(set(session.forwarded))


def test_a_chain_beyond_the_models_positions_hides_no_answer(start):
    positions = len(PROMPT) + 3  # the root and two drafted tokens
    spec = spec_of(["model:alike"], "4")
    staged, alone = start(spec, positions=positions)[0], start("model:first", positions=positions)[0]
    assert grown(staged, 5, [1] * 5, 1)[1] == grown(alone, 5, [1] * 5, 1)[1]


def test_the_kv_of_every_level_is_that_of_the_committed_text():
    names = {"large": noisy("llama", 0, 0.3), "small": noisy("llama", 0, 0.6)}
    pipeline = Pipeline(
        tiny("llama"), drafter="staged:levels=[model:large]+[model:small]", shaper="adaptive",
        pool=Pool(modules=names),
    )
    stream = pipeline.stream(PROMPT, max_new_tokens=40)
    for _ in stream:
        pass
    text = [*PROMPT, *stream.result.token_ids]
    assert any(step.accepted for step in stream.result.steps)
    drafting = list(stream.drafts.sessions)
    for name, session in zip(names, drafting, strict=True):
        fresh = stream.drafts.session(name)
        fresh.prefill(text[: session.length])
        assert session.length > len(PROMPT)
        for ours, wanted in zip(session.cache.layers, fresh.cache.layers, strict=True):
            rows = slice(0, session.length)
            torch.testing.assert_close(ours.keys[:, :, rows], wanted.keys[:, :, rows])
            torch.testing.assert_close(ours.values[:, :, rows], wanted.values[:, :, rows])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("staged:levels=[nothing]", "no drafter called"),
        ("staged:levels=[model:a]+[model:b", "brackets"),
        ("staged:ahead=0", "ahead"),
        ("staged:ahead=two", "integers joined by x"),
    ],
)
def test_wrong_levels_are_refused(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("drafter", spec)


def test_a_spec_is_what_it_says(registry):
    spec = "staged:levels=[model:a]+[ngram:n=3],ahead=4x8"
    choice = registry.resolve("drafter", spec)
    assert str(choice) == spec
    assert str(registry.resolve("drafter", str(choice))) == spec
    assert [str(part) for part in choice.nested] == ["model:a", "ngram:n=3"]


def test_it_proposes_as_its_first_level_does(registry):
    for first, proposals in (("model:s", {"fixed", "sampled", "iid"}), ("ngram", {"fixed"})):
        choice = registry.resolve("drafter", f"staged:levels=[staged:levels=[{first}]]+[model:s]")
        assert proposals_of(choice) == proposals
