"""Negative controls: every property catches the bug that it is there for."""

import itertools

import attrs
import pytest
import saboteurs
import torch

from toolkit import (
    Candidates,
    Choice,
    Pool,
    Registry,
    Sampler,
    TokenTree,
    ToolkitError,
    TreeShaper,
)
from toolkit.conformance.cases import Case
from toolkit.conformance.comparison import Broken
from toolkit.conformance.models import VOCABULARY, noisy, tiny
from toolkit.conformance.properties import decoding, drafters, masks, verifiers
from toolkit.runtime.draft_runtime import DraftRuntime
from toolkit.runtime.session import ModelSession

REGISTRY = Registry.installed()


def cases(**changed):
    """A few fixed cases with mixed acceptance; `changed` replaces choices."""
    specs = {
        "drafter": "model:noisy",
        "shaper": "budget",
        "verifier": "greedy",
        "kv": "full",
        "draft_kv": "full",
    }
    chosen = {k: REGISTRY.resolve("kv" if "kv" in k else k, v) for k, v in specs.items()}
    for family, seed in itertools.product(("llama", "gpt_neox", "gpt2"), range(3)):
        yield Case(
            **{
                "family": family,
                "seed": seed,
                "noise": 0.02,
                "prompt": (5, 9, 33, 4, 9, 33),
                "max_new_tokens": 24,
                "stops": (0,),
                **chosen,
                **changed,
            }
        )


def caught(holds, **changed):
    """Whether some case breaks the property."""
    for case in cases(**changed):
        try:
            holds(case, REGISTRY)
        except Broken:
            return True
    return False


@pytest.mark.parametrize("holds", decoding.PER_CASE, ids=lambda holds: holds.__name__)
def test_honest_cases_pass(holds):
    assert not caught(holds)


@pytest.mark.parametrize(
    ("saboteur", "holds"),
    [
        (saboteurs.machinery.position_by_index, decoding.tokens_equal_ar),
        (saboteurs.machinery.position_by_index, decoding.cache_equals_ar),
        (saboteurs.machinery.sibling_visible, decoding.tokens_equal_ar),
        (saboteurs.machinery.wrong_row_kept, decoding.tokens_equal_ar),
        (saboteurs.machinery.wrong_row_kept, decoding.cache_equals_ar),
        (saboteurs.machinery.past_the_end, decoding.stops_in_time),
    ],
    ids=lambda thing: thing.__name__,
)
def test_broken_machinery_is_caught(saboteur, holds):
    with saboteur():
        assert caught(holds)


@pytest.mark.parametrize(
    ("kind", "cls", "holds"),
    [
        ("verifier", saboteurs.verifiers.OneTooMany, decoding.tokens_equal_ar),
        ("shaper", saboteurs.shapers.OverBudget, decoding.trees_within_budget),
        ("shaper", saboteurs.shapers.KeepsState, decoding.requests_are_independent),
    ],
    ids=lambda thing: getattr(thing, "__name__", thing),
)
def test_sabotaged_strategies_are_caught(kind, cls, holds):
    assert caught(holds, **{kind: Choice(cls)})


def broken(case, saboteur, holds):
    with saboteur():
        try:
            holds(case, REGISTRY)
        except Broken as error:
            return str(error)
    return ""


def test_acceptance_past_a_stop_id_is_caught():
    """Some honest cases end by a stop id; of these, some end inside an accepted path."""
    ends = [
        case
        for case in cases(max_new_tokens=60, stops=(0, 20, 21, 22, 23, 24, 25))
        if decoding.decode(case.pipeline(REGISTRY), case).result.stop_reason == "eos"
    ]
    found = [
        broken(case, saboteurs.machinery.past_the_end, decoding.stops_in_time) for case in ends
    ]
    assert any("after a stop id" in message for message in found)


def test_acceptance_past_max_new_tokens_is_caught():
    found = [
        broken(case, saboteurs.machinery.past_the_end, decoding.stops_in_time)
        for count in (2, 3, 4)
        for case in cases(max_new_tokens=count, stops=())
    ]
    assert any("asked for" in message for message in found)


@pytest.mark.parametrize(
    "saboteur", [saboteurs.machinery.position_by_index, saboteurs.machinery.sibling_visible]
)
def test_a_node_that_sees_more_than_its_path_is_caught(saboteur):
    def session():
        pool = Pool(modules={"it": tiny("llama", 0)})
        return ModelSession(pool.load("it"), REGISTRY.resolve("kv", "full").build())

    def full(ids):
        return session().forward(ids, list(range(-1, len(ids) - 1)))

    tree = TokenTree.root(7).grow([0], Candidates([[3, 4]], [[0.0, 0.0]]))
    it, full_logits = session(), {}
    for ids in ([1, 2, 7], [1, 2, 7, 3], [1, 2, 7, 4]):
        full_logits[tuple(ids)] = full(ids)
    it.prefill([1, 2])
    with saboteur(), pytest.raises(Broken):
        masks.node_sees_its_path(it, tree, [1, 2], lambda ids: full_logits[tuple(ids)])


def started(cls, prompt, **options):
    drafter = cls(**options)
    pool = Pool(modules={"it": tiny("llama", 0), "noisy": noisy("llama", 0)})
    full = REGISTRY.resolve("kv", "full")
    target = ModelSession(pool.load("it"), full.build())
    drafter.start(prompt, DraftRuntime(pool, target, full))
    return drafter


def test_siblings_sharing_a_cache_are_caught():
    prompt = [5, 9, 33, 4]
    with pytest.raises(Broken):
        drafters.branches_drafted_alone(
            lambda: started(saboteurs.drafters.SharedBranch, prompt, id="noisy"), prompt, 8
        )


def test_state_from_rejected_drafts_is_caught():
    prompt = [5, 9, 33, 4]
    tree = TokenTree.root(7).grow([0], Candidates([[3, 4]], [[0.0, 0.0]]))
    with pytest.raises(Broken):
        drafters.drafts_from_committed_only(
            lambda text: started(saboteurs.drafters.RemembersRejected, text),
            prompt,
            [(tree, [0])],
        )


@attrs.define
class Malformed(TreeShaper):
    """Hangs a second node on the prefix, or starts from another root."""

    name = "malformed"
    how: str = "root"

    @property
    def nodes(self):
        return 8

    def grow(self, root, expand):
        tree = root.grow([0], expand(root, [0], 2))
        if self.how == "root":
            return attrs.evolve(tree, tokens=[(token + 1) % VOCABULARY for token in tree.tokens])
        if self.how == "orphan":
            return attrs.evolve(tree, parents=[-1] * len(tree))
        return attrs.evolve(tree, depths=[2 * depth for depth in tree.depths])


@pytest.mark.parametrize("how", ["root", "orphan", "depth"])
def test_what_is_no_tree_is_refused(how):
    case = next(cases(shaper=Choice(Malformed, (("how", how),))))
    with pytest.raises(ToolkitError, match="no tree on the root"):
        decoding.decode(case.pipeline(REGISTRY), case)


def test_a_verifier_that_accepts_too_much_is_caught_by_itself():
    tree = TokenTree.root(7).grow([0], Candidates([[1]], [[0.0]]))
    logits = torch.eye(4)[[2, 3]]  # the target says 2 after the root, and 1 was drafted
    with pytest.raises(Broken, match="not one that AR takes"):
        verifiers.accepts_what_ar_says(saboteurs.verifiers.OneTooMany(), tree, logits, Sampler())
