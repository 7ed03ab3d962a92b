"""All verifiers: fifty tokens by chi-square, laws at their edges, and the optimal rule."""

from collections import Counter

import attrs
import pytest
import torch

from toolkit import Sampler, Sampling, TokenTree
from toolkit.conformance.enumeration import ROUNDING, language
from toolkit.proposer import Proposer

WIDE, SEEDS = 50, 1000
TOO_FAR = 118.8  # the chi-square quantile of 1 − 1e−7, 49 degrees of freedom
SAMPLING = Sampling(0.9)
TARGET, DRAFT = (
    torch.randn(2, WIDE, generator=torch.Generator().manual_seed(seed)) * 0.6 for seed in (1, 2)
)  # the logits after even and after odd tokens
HOW = {"sampler-match": "matched", "specinfer": "iid"}
TREES = {"chain": (1, 1, 1), "tree": (3, 2)}


def drawn_tree(root, children, proposer, fixed, position):
    """A tree with so many children at each level."""
    tree, level = TokenTree.root(root), [0]
    for k in children:
        logits = DRAFT[[tree.tokens[node] % 2 for node in level]]
        where = {"position": position, "vocabulary": WIDE, "fixed": fixed}
        candidates = proposer.candidates(tree, level, logits, k, **where)
        first, tree = len(tree), tree.grow(level, candidates)
        level = range(first, len(tree))
    return tree


def distances(verifier, proposer_of, children, fixed):
    """How far the first two tokens are from their laws, by chi-square: the first by itself, the second
    among the texts whose first token is even."""
    firsts, seconds = Counter(), Counter()
    for seed in range(SEEDS):
        text, proposer = [0], proposer_of(seed)
        while len(text) < 3:
            position = len(text) - 1
            tree = drawn_tree(
                text[-1], children if position == 0 else (), proposer, fixed, position
            )
            logits = TARGET[[token % 2 for token in tree.tokens]]
            verdict = verifier.judge(tree, logits, Sampler(SAMPLING, seed, position))
            text += [*(tree.tokens[node] for node in verdict.path[1:]), verdict.bonus]
        firsts[text[1]] += 1
        if text[1] % 2 == 0:
            seconds[text[2]] += 1
    return [chi_square(found, TARGET[0]) for found in (firsts, seconds)]


def chi_square(found, logits):
    law = Sampler(SAMPLING).law(logits).tolist()
    return sum((found[x] - found.total() * p) ** 2 / (found.total() * p) for x, p in enumerate(law))


@pytest.mark.parametrize("children", TREES.values(), ids=TREES)
@pytest.mark.parametrize("name", ["sampler-match", "swor", "traversal", "hybrid", "specinfer"])
def test_fifty_tokens_have_ars_law(make, name, children):
    """Drafts are drawn as they are in use. Seeds are fixed: a right verifier would fail one of these
    twenty tests for one choice of seeds in 500,000."""
    draws = lambda seed: Proposer(HOW.get(name, "sampled"), SAMPLING, seed)  # noqa: E731
    fixed = int(name == "hybrid")
    assert max(distances(make("verifier", name), draws, children, fixed)) < TOO_FAR


@attrs.frozen
class Likeliest(Proposer):
    """Calls the likeliest tokens drawn."""

    def candidates(self, *rest, **how):
        found = Proposer.candidates(self, *rest, **how)
        return attrs.evolve(found, tokens=found.laws.topk(len(found.tokens[0])).indices.tolist())


@pytest.mark.parametrize("name", ["swor", "traversal"])
def test_likeliest_tokens_that_count_as_drawn_are_caught_among_fifty(make, name):
    draws = lambda seed: Likeliest("sampled", SAMPLING, seed)  # noqa: E731
    assert max(distances(make("verifier", name), draws, (3, 2), 0)) > TOO_FAR


NONE = float("-inf")
ALMOST = 1 + 2**-50
EDGES = {
    "nothing in common": ([0.0, NONE, NONE], [NONE, 0.0, 0.0]),
    "one token each": ([0.0, NONE], [NONE, 0.0]),
    "the same token": ([0.0, NONE], [0.0, NONE]),
    "the drafter is sure": ([0.0, 0.0], [0.0, NONE]),
    "the target is sure": ([NONE, 0.0], [0.0, 0.0]),
    "ties": ([1.0, 1.0, 0.0], [0.0, 0.0, 0.0]),
    "equal": ([0.3, 0.1, -0.4], [0.3, 0.1, -0.4]),
    "equal but for rounding": ([0.3, 0.1, -0.4], [0.3 * ALMOST, 0.1, -0.4 * ALMOST]),
    "improbable": ([0.0, -600.0, -660.0], [-660.0, 0.0, -600.0]),
}


@pytest.mark.parametrize(("target", "draft"), EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("name", ["swor", "traversal", "hybrid", "specinfer"])
def test_laws_at_their_edges_are_ars(law_of, grow_by, name, target, draft):
    """Tokens that one of the laws excludes, residuals without mass, and nodes with fewer children than
    were asked for."""
    p, q = (lambda text, row=row: torch.tensor(row, dtype=torch.double) for row in (target, draft))
    for parents in ((0, 0), (0, 1), (0, 0, 1)):
        grow = grow_by(q, parents, replace=name == "specinfer")
        assert law_of(name, p, grow)[0] <= ROUNDING


def test_what_is_too_improbable_for_float64_is_not_drawn():
    scores = torch.tensor([[0.0, -600.0, -700.0, -744.0]], dtype=torch.double)
    proposer = Proposer("sampled", Sampling(1.0), 3)
    found = proposer.candidates(TokenTree.root(0), [0], scores, 4, position=0, vocabulary=4)
    assert found.tokens == [[0, 1]]
    assert (found.laws[0] > 0).tolist() == [True, True, False, False]


def most_tokens(target, grow, sampling):
    """The most tokens that a lossless rule can expect of a tree that chance did not choose: as many of
    AR's tokens as the tree holds, and one more."""
    tree, law = grow(0, (0,), None), Sampler(sampling).law
    reached = [1.0]
    for node in range(1, len(tree)):
        path = [node]
        while path[0]:
            path.insert(0, tree.parents[path[0]])
        above = (0, *(tree.tokens[each] for each in path[1:-1]))
        reached.append(reached[tree.parents[node]] * float(law(target(above))[tree.tokens[node]]))
    return sum(reached)


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.5), Sampling(1.4, top_p=0.8)], ids=str
)
@pytest.mark.parametrize(
    "rows", [[(0, 1)], [(0, 2), (0, 1), (1, 0)], [(0, 0), (1, 2), (2, 1), (1, 1)]]
)
def test_sampler_match_is_optimal_where_children_are_not_drawn(
    law_of, planted_at_every_step, sampling, rows
):
    """No verifier that keeps the law accepts more."""
    target, grow = language(4, 3), planted_at_every_step(*rows)
    most = most_tokens(target, grow, sampling)
    accepted = {
        name: law_of(name, target, grow, sampling)[1]
        for name in ("sampler-match", "swor", "traversal", "hybrid")
    }
    assert accepted["sampler-match"] == pytest.approx(most, abs=1e-12)
    assert max(accepted.values()) <= most + 1e-12


def test_a_verifier_that_accepts_more_than_the_most_is_caught(law_of, planted_at_every_step):
    """It is lossy: `typical`."""
    target, grow = language(4, 3), planted_at_every_step((0, 2), (0, 1), (1, 0), (2, 0))
    assert law_of("typical", target, grow)[1] > most_tokens(target, grow, Sampling(1.0)) + 1e-3
