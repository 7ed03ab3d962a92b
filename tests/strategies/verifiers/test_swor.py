"""`swor` and `traversal`: exact laws by enumeration, and the bugs that make them accept more."""

import math
from collections import Counter
from itertools import product

import attrs
import pytest
import torch

from toolkit import Candidates, Pipeline, Pool, Sampler, Sampling, verify
from toolkit.conformance.enumeration import ROUNDING, language, redrawn
from toolkit.conformance.models import noisy, tiny
from toolkit.engine import Strategies, decode
from toolkit.errors import MismatchError
from toolkit.proposer import Proposer

VERIFIERS = ["swor", "traversal"]
SAMPLINGS = [Sampling(1.0), Sampling(0.6), Sampling(1.4, top_p=0.8), Sampling(2.0, top_k=2)]


SHAPES = {"star": (0, 0, 0), "chain": (0, 1, 2), "fork": (0, 0, 1), "deep fork": (0, 0, 1, 1)}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("parents", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("fixed", [0, 1])
def test_drawn_trees_give_ars_law_and_traversal_accepts_no_less(
    law_of, grow_by, parents, sampling, fixed
):
    """Also if each first child was chosen deterministically."""
    target, grow = language(1, 3), grow_by(language(2, 3), parents, fixed=fixed)
    (error, swor), (another, traversal) = (law_of(n, target, grow, sampling) for n in VERIFIERS)
    assert max(error, another) <= ROUNDING
    assert traversal >= swor - 1e-12


@pytest.mark.parametrize("name", VERIFIERS)
def test_two_steps_have_ars_joint_law(law_of, grow_by, name):
    target, draft, sampling = language(3, 2), language(5, 2), Sampling(0.8)
    for parents in (((0, 0), (0, 1)), ((0, 1), (0, 0))):
        assert law_of(name, target, grow_by(draft, *parents), sampling, 2)[0] <= ROUNDING


@pytest.mark.parametrize("name", VERIFIERS)
def test_numbers_of_children_may_depend_on_the_tokens_above(law_of, shape, name):
    target, draft = language(3, 3), language(5, 3)

    def grow(step, text, chance):
        tree = redrawn(shape((0, 0)), text, draft, chance)
        below = [1] * tree.tokens[1]  # as many as the first child's token says
        again = redrawn(shape((0, *below)), (*text, tree.tokens[1]), draft, chance)
        laws = {**tree.laws, 1: again.laws[0]} if below else tree.laws
        for token in again.tokens[1 : 2 if below else 1]:
            tree = tree.grow([1], Candidates([[token]], [[-1.0]]))
        return attrs.evolve(tree, laws=laws)

    assert law_of(name, target, grow)[0] <= ROUNDING


def test_traversal_of_a_chain_is_block_verification(law_of, grow_by):
    """Expected tokens equal the closed form: Σ_i E[π_i] with the capped products of Sun et al. 2024."""
    target, draft = language(8, 3), language(9, 3)
    tokens = law_of("traversal", target, grow_by(draft, (0, 1)))[1]
    p, q = (lambda t: target(t).softmax(-1)), (lambda t: draft(t).softmax(-1))
    best = 1.0
    for x in range(3):  # block verification attains Σ over paths of the mass that both laws share
        first = min(1.0, float(p((0,))[x] / q((0,))[x]))
        second = sum(
            min(float(q((0, x))[y]), first * float(p((0, x))[y])) for y in range(3)
        )
        rest = sum(max(first * float(p((0, x))[y]) - float(q((0, x))[y]), 0.0) for y in range(3))
        stays = rest / (rest + 1 - first) if first < 1 else 1.0
        best += float(q((0,))[x]) * (2 * second + (1 - second) * stays)
    assert tokens == pytest.approx(best, abs=1e-12)


def sort_by_probability(tree):
    """Siblings of the root in the order of their probability, not of their draws."""
    order = sorted(range(1, len(tree)), key=lambda node: -tree.logprobs[node])
    return attrs.evolve(tree, tokens=[tree.tokens[0], *(tree.tokens[node] for node in order)])


def keep_in_a_set(tree):
    """Siblings of the root in the order in which a set holds them."""
    return attrs.evolve(tree, tokens=[tree.tokens[0], *{*tree.tokens[1:]}])


def drop_the_weak(tree):
    """Children that the drafter finds unlikely are not verified."""
    return tree.subtree([0, *(n for n in range(1, len(tree)) if tree.logprobs[n] > math.log(0.3))])


def judge_at_another_temperature(tree):
    laws = {node: (law.log() / 2).softmax(-1) for node, law in tree.laws.items()}
    return attrs.evolve(tree, laws=laws)


def top_k_called_drawn(tree):
    """The likeliest tokens, whatever was drawn."""
    best = tree.laws[0].topk(len(tree) - 1).indices.tolist()
    return attrs.evolve(tree, tokens=[tree.tokens[0], *best])


BUGS = [
    sort_by_probability, keep_in_a_set, drop_the_weak, judge_at_another_temperature,
    top_k_called_drawn,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
@pytest.mark.parametrize("name", VERIFIERS)
def test_a_tree_that_is_not_as_drawn_is_caught(law_of, grow_by, name, bug):
    target, draft = language(1, 4), language(2, 4)
    assert law_of(name, target, grow_by(draft, (0, 0), change=bug))[0] > 1e-3


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_draft_by_the_targets_own_law_is_accepted_whole(law_of, grow_by, name):
    target = language(6, 3)
    assert law_of(name, target, grow_by(target, (0, 1, 2)))[1] == pytest.approx(4, abs=1e-9)


@pytest.mark.parametrize("name", VERIFIERS)
def test_at_temperature_0_it_gives_greedy_tokens(make, name, plant):
    tree = plant([(0, 1, -1.0), (0, 2, -1.0), (2, 0, -1.0)])
    logits = torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 4.0, 2.0]])
    verdict = make("verifier", name).judge(tree, logits, Sampler())
    assert (verdict.path, verdict.bonus) == ([0, 2, 3], 1)


SEEDS, TOKENS = 1200, 3  # tokens after the first, which is drawn without drafts
LAW = [0.4, 0.3, 0.2, 0.1]
TOO_FAR = 144.2  # the chi-square quantile of 1 − 1e−7, 63 degrees of freedom


@attrs.frozen
class Repeats(Proposer):
    """Draws with the same noise in every step and at every node."""

    def candidates(self, tree, *rest, position, **how):
        alike = attrs.evolve(tree, tokens=[0] * len(tree), parents=[-1] * len(tree))
        return Proposer.candidates(self, alike, *rest, position=0, **how)


def distance(make, hash_model, hash_session, hash_runtime, drafted, proposer=Proposer):
    """How far the texts that are decoded over many seeds are from their law, by chi-square.

    `drafted` is the drafter's law.
    """

    @attrs.frozen
    class Constant(hash_model):
        law: tuple = ()

        def logits(self, text):
            return torch.tensor(self.law).log()

    target, draft = Constant(vocabulary=4, law=LAW), Constant(vocabulary=4, law=drafted)
    found = Counter()
    for seed in range(SEEDS):
        strategies = Strategies(
            make("drafter", "model:small"), make("shaper", "growmap:2x1"), make("verifier", "swor")
        )
        session, draws = hash_session(target), proposer("sampled", Sampling(1.0), seed)
        runtime = hash_runtime(draft, 4, proposer=draws, target=session)
        events = decode(
            session, runtime, strategies, [1, 2], max_new_tokens=1 + TOKENS,
            ends=lambda token: False, sampling=Sampling(1.0), seed=seed,
        )  # fmt: skip
        found[tuple(token for event in events for token in event.tokens)[1:]] += 1
    expected = {t: SEEDS * math.prod(LAW[x] for x in t) for t in product(range(4), repeat=TOKENS)}
    return sum((found[text] - count) ** 2 / count for text, count in expected.items())


@pytest.mark.parametrize("drafted", [LAW, LAW[::-1]], ids=["a good drafter", "a poor drafter"])
def test_decoded_texts_have_their_joint_law(
    make, hash_model, hash_session, hash_runtime, drafted
):
    """The model drafter's draws and the verifier's are independent. Seeds are fixed."""
    assert distance(make, hash_model, hash_session, hash_runtime, drafted) < TOO_FAR


def test_draws_that_repeat_are_caught(make, hash_model, hash_session, hash_runtime):
    assert distance(make, hash_model, hash_session, hash_runtime, LAW, Repeats) > TOO_FAR


def test_a_shaper_that_drops_drawn_children_is_refused():
    pool = Pool(modules={"small": noisy("llama", 0)})
    for name in VERIFIERS:
        with pytest.raises(MismatchError, match="these keep them all: chain, distinct, growmap, slots"):
            Pipeline(tiny("llama"), drafter="model:small", shaper="budget", verifier=name, pool=pool,
                     sampling=Sampling(1.0))  # fmt: skip


def test_a_pipeline_samples_with_it_and_does_not_compare_tokens():
    pool = Pool(modules={"small": noisy("llama", 0)})
    pipeline = Pipeline(tiny("llama"), drafter="model:small", shaper="growmap:2x1", pool=pool,
                        verifier="traversal", sampling=Sampling(0.8))  # fmt: skip
    first, again, other = (
        pipeline.generate([5, 9, 33], max_new_tokens=16, seed=seed) for seed in (1, 1, 2)
    )
    assert first.token_ids == again.token_ids != other.token_ids
    assert sum(step.accepted for step in first.steps) > 0
    with pytest.raises(MismatchError, match="AR's distribution, not its tokens"):
        verify(pipeline, first)
