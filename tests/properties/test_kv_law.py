"""KV policies and sampling: drafted texts have the law of AR under the same policy, by enumeration."""

from collections import defaultdict
from functools import cache

import pytest
from saboteurs import machinery

from toolkit import Pool, Registry, Sampling
from toolkit.conformance.enumeration import ChanceSampler, every_run, language, redrawn, worst_error
from toolkit.conformance.models import fresh
from toolkit.runtime.session import ModelSession

REGISTRY = Registry.installed()
POLICIES = ["window:4", "h2o:budget=6,recent=2,sinks=1,epoch=3", "knorm:budget=5,epoch=3"]
PROMPT, COMMITTED = [1, 0, 1, 1, 0, 1, 0, 0, 1], [1, 0, 0, 1]  # scoring policies decide after both
SAMPLING = Sampling(0.8)
ROUNDING = 1e-9  # of passes in float64


@pytest.fixture(scope="module")
def opened():
    """Sessions of a random model of two tokens, by the spec of their policy."""
    pool = Pool(modules={"it": fresh("llama", 3, (), vocabulary=2)})

    def opened(spec):
        session = ModelSession(pool.load("it"), REGISTRY.resolve("kv", spec).build())
        session.prefill(PROMPT)
        for token in COMMITTED:
            session.forward([token], [-1])
            session.commit([0])
        return session

    return opened


def by_ar(opened, spec):
    """AR under a policy: a text → its logits."""

    @cache
    def logits(text):
        session = opened(spec)
        for token in text:
            found = session.forward([token], [-1])[0]
            session.commit([0])
        return found

    return logits


def drafted(opened, spec, make, verifier, *shapes):
    """The law of the texts after the token 0 that are drafted and verified, a shape for each step."""
    draft, law = language(7, 2), defaultdict(float)

    def experiment(chance):
        session, text = opened(spec), (0,)
        for shape in shapes:
            tree = redrawn(shape, text, draft, chance)
            sampler = ChanceSampler(SAMPLING, 0, len(text) - 1, chance=chance)
            logits = session.forward(tree.tokens, tree.parents)
            verdict = make("verifier", verifier).judge(tree, logits, sampler)
            session.commit(verdict.path)
            text = (*text, *(tree.tokens[node] for node in verdict.path[1:]), verdict.bonus)
        return text[1:]

    for probability, text in every_run(experiment):
        law[text] += probability
    return dict(law)


@pytest.mark.parametrize("spec", POLICIES)
def test_under_a_policy_the_law_is_ars(opened, make, plant, spec):
    fork, one = plant([(0, 0, -1.0), (0, 1, -1.0)]), plant([(0, 0, -1.0)])
    law = drafted(opened, spec, make, "traversal", fork, one)
    assert worst_error(law, by_ar(opened, spec), SAMPLING) <= ROUNDING
    assert worst_error(law, by_ar(opened, "full"), SAMPLING) > 1e-3  # the policy matters


def test_rejected_rows_that_stay_change_the_law(opened, make, plant):
    fork, one = plant([(0, 0, -1.0), (0, 1, -1.0)]), plant([(0, 0, -1.0)])
    with machinery.rejected_rows_kept():
        law = drafted(opened, POLICIES[1], make, "traversal", fork, one)
    assert worst_error(law, by_ar(opened, POLICIES[1]), SAMPLING) > 1e-3
