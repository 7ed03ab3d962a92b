"""Node rows: their invariants on generated decodings, and rows that break them."""

import math

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import (
    Pipeline,
    Pool,
    Registry,
    TokenTree,
    ToolkitError,
    Verdict,
    node_rows,
    run_record,
)  # fmt: skip
from toolkit.conformance.generators import prompts, trees
from toolkit.conformance.models import COSTS, VOCABULARY, noisy, tiny
from toolkit.nodes import Node, find_fates, list_nodes
from toolkit.sampling import Sampling
from toolkit.target_scores import TargetScores
from toolkit.tree import Candidates

SLACK = 1e-6


def broken(steps, generation):
    """The invariants that steps of nodes break, by name."""
    found = set()
    tokens = [steps[0][0].token] if steps else list(generation.token_ids[:1])
    for nodes in steps:
        by_id = {n.node: n for n in nodes}
        children = {n.node: [c for c in nodes if c.parent == n.node] for n in nodes}
        accepted = [n for n in nodes if n.fate == "accepted"]
        (root, *_), bonus = nodes, [n for n in nodes if n.fate == "bonus"]
        if [n.node for n in nodes] != [*range(len(nodes))] or any(
            n.parent >= n.node for n in nodes
        ):
            found.add("parents come first")
        if (
            root.fate != "root"
            or root.depth
            or any(n.depth != by_id[n.parent].depth + 1 for n in nodes[1:])
        ):
            found.add("depths")
        if (
            len(bonus) != 1
            or [n.depth for n in accepted] != [*range(1, len(accepted) + 1)]
            or any(
                below.parent != above.node
                for above, below in zip([root, *accepted], [*accepted, *bonus], strict=True)
            )
        ):
            found.add("one path")
            continue
        for below in children.values():
            drafted = [n for n in below if n.draft_logprob is not None]
            distinct = {n.token: n for n in below}.values()
            if len({n.token for n in drafted}) == len(drafted) and (
                sum(math.exp(n.draft_logprob) for n in drafted) > 1 + SLACK
            ):
                found.add("drafter's mass")
            if sum(math.exp(n.target_logprob) for n in distinct) > 1 + SLACK:
                found.add("target's mass")
            if [n.place for n in below] != [*range(len(below))]:
                found.add("order")
        path = {root.node, *(n.node for n in accepted)}
        for n in nodes[1:]:
            if (n.parent not in path) != (n.fate == "unreached") and n.coin is None:
                found.add("unreached")
            taken = [s.node for s in children[n.parent] if s.fate in ("accepted", "bonus")
                     and s.draft_logprob is not None]  # fmt: skip
            passed = any(t < n.node for t in taken)
            if n.fate in ("rejected", "passed") and (n.fate == "passed") != passed:
                found.add("rejected or passed")
            if n.coin is not None and not (
                (n.fate == "accepted" and 0 < n.coin <= 1)
                or (n.fate == "rejected" and 0 <= n.coin < 1)
                or n.fate == "bonus"
            ):
                found.add("coin")
            above = by_id[n.parent]
            if n.fate in ("accepted", "bonus") and (
                n.target_rank or n.token != above.top_tokens[0]
            ):
                found.add("greedy")
            if n.target_logprob > above.top_logprobs[0] + SLACK:
                found.add("top")
        for n in nodes:
            if n.target_entropy is not None and not (
                -SLACK <= n.target_entropy <= math.log(VOCABULARY) + SLACK
            ):
                found.add("entropy")
        tokens += [n.token for n in [*accepted, *bonus]]
    if tokens != generation.token_ids:
        found.add("text")
    return found


def steps_of(generation):
    events = [e for e in generation.events if e.step is not None]
    return [[*list_nodes(e.tree, e.verdict, e.scores, generation.piece)] for e in events]


def decoded(family, seed, shaper, prompt, count, stops=(0,), **choices):
    pipeline = Pipeline(
        tiny(family, seed, stops),
        drafter="model:noisy",
        shaper=shaper,
        pool=Pool(modules={"noisy": noisy(family, seed, 0.05)}, costs=COSTS),
        registry=Registry.installed(),
        **choices,
    )
    return pipeline, pipeline.generate(list(prompt), max_new_tokens=count, record_nodes=True)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["llama", "gpt_neox"]), st.integers(0, 3),
    st.sampled_from(["chain", "fixed", "adaptive", "budget", "planned"]),
    prompts(), st.integers(1, 24), st.sampled_from([(0,), (0, 7, 19, 31, 43, 55, 67, 79, 91)]),
)  # fmt: skip
def test_every_invariant_holds(family, seed, shaper, prompt, count, stops):
    _, generation = decoded(family, seed, shaper, prompt, count, stops)
    assert broken(steps_of(generation), generation) == set()


@pytest.mark.parametrize("sampling", [Sampling(0.8), Sampling(1.2, top_k=5, top_p=0.9)], ids=str)
def test_a_sampled_request_keeps_them_too(sampling):
    """Only that the target's likeliest token is committed does not hold."""
    _, generation = decoded("llama", 1, "fixed", (5, 9, 33, 4), 24, sampling=sampling)
    assert broken(steps_of(generation), generation) == {"greedy"}


@pytest.mark.parametrize("verifier", ["swor", "traversal", "hybrid"])
def test_a_verifier_of_draws_keeps_them_and_shows_its_coins(verifier):
    drawn = {"sampling": Sampling(0.9), "verifier": verifier}
    _, generation = decoded("llama", 1, "growmap", (5, 9, 33, 4), 24, (), **drawn)
    steps = steps_of(generation)
    assert broken(steps, generation) == {"greedy"}
    tested = {n.fate for nodes in steps for n in nodes if n.coin is not None}
    assert {"accepted", "rejected"} <= tested
    assert {n.proposal for nodes in steps for n in nodes[1:]} == {"sampled", None}
    of_passed = changed(steps, lambda n: n.fate == "passed" or n.fate == "unreached", coin=0.5)
    assert "coin" in broken(of_passed, generation)


@pytest.fixture(scope="module")
def good():
    _, generation = decoded("llama", 1, "fixed", (5, 9, 33, 4), 24)
    steps = steps_of(generation)
    assert broken(steps, generation) == set()
    return steps, generation


def changed(steps, choose, **changes):
    """The steps with one node changed: the first that `choose` takes."""
    flat = [(s, n) for s, nodes in enumerate(steps) for n in nodes if choose(n)]
    step, node = flat[0]
    new = [[*nodes] for nodes in steps]
    new[step][node.node] = evolve(node, **changes)
    return new


@pytest.mark.parametrize(
    ("choose", "changes", "named"),
    [
        (lambda n: n.fate == "accepted", {"fate": "rejected"}, "one path"),
        (lambda n: n.fate == "accepted", {"target_rank": 1}, "greedy"),
        (lambda n: n.fate == "rejected", {"fate": "passed"}, "rejected or passed"),
        (lambda n: n.fate == "unreached", {"fate": "rejected"}, "unreached"),
        (lambda n: n.fate == "bonus", {"token": 96}, "text"),
        (lambda n: n.depth == 1, {"draft_logprob": 0.1}, "drafter's mass"),
        (lambda n: n.depth == 1, {"target_logprob": 0.1}, "target's mass"),
        (lambda n: n.depth == 2, {"depth": 3}, "depths"),
        (lambda n: n.place == 1, {"place": 0}, "order"),
        (lambda n: n.fate == "root", {"target_entropy": 99.0}, "entropy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_row_is_noticed(good, choose, changes, named):
    steps, generation = good
    assert named in broken(changed(steps, choose, **changes), generation)


@settings(max_examples=40, deadline=None)
@given(trees(), st.integers(0, 9))
def test_scores_are_those_of_a_plain_softmax(tree, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(tree), VOCABULARY, generator=generator, dtype=torch.double)
    logits[:, 50] = -math.inf  # as of a token that the model rules out
    verdict = Verdict([0], int(logits[0].argmax()))
    scores = TargetScores.of(tree, verdict, logits)
    law = logits.softmax(-1)
    for node, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True)):
        entropy = -sum(p * math.log(p) for p in law[node].tolist() if p)
        if node and node not in tree.parents:  # nothing follows
            assert (scores.entropies[node], scores.top_tokens[node]) == (None, [])
        else:
            assert scores.entropies[node] == pytest.approx(entropy)
            likeliest = law[node].topk(5)
            assert scores.top_tokens[node] == likeliest.indices.tolist()
            assert scores.top_logprobs[node] == pytest.approx(likeliest.values.log().tolist())
        if node:
            p = law[parent, token]
            assert scores.ranks[node] == int((law[parent] > p).sum())
            assert math.exp(scores.logprobs[node]) == pytest.approx(float(p))
    assert scores.logprobs[-1] == pytest.approx(float(law[0].max().log()))


def test_fates_by_hand():
    """root → 1, 2, 3; 2 → 4, 5; 1 → 6. Path: root, 2. No bonus among 4 and 5."""
    tree = TokenTree.root(9).grow([0], Candidates([[1, 2, 3]], [[-1.0] * 3]))
    tree = tree.grow([2], Candidates([[4, 5]], [[-1.0] * 2])).grow([1], Candidates([[6]], [[-1.0]]))
    fates = ["root", "rejected", "accepted", "passed", "rejected", "rejected", "unreached"]
    assert find_fates(tree, Verdict([0, 2], 7)) == fates
    ended = ["root", "rejected", "accepted", "passed", "bonus", "passed", "unreached"]
    assert find_fates(tree, Verdict([0, 2], 4)) == ended


def test_where_a_request_ends_within_a_path_the_bonus_is_the_drafted_node(good):
    pipeline, whole = decoded("llama", 1, "fixed", (5, 9, 33, 4), 24)
    stop = next(n.token for nodes in good[0] for n in nodes if n.fate == "accepted")
    stream = pipeline.stream([5, 9, 33, 4], max_new_tokens=24, stop_ids=[stop], record_nodes=True)
    for _ in stream:
        pass
    nodes = steps_of(stream.result)[-1]
    (bonus,) = (n for n in nodes if n.fate == "bonus")
    assert (bonus.token, bonus.draft_logprob is None) == (stop, False)
    assert broken(steps_of(stream.result), stream.result) == set()
    assert stream.result.token_ids == whole.token_ids[: len(stream.result.token_ids)]


def test_without_recording_there_are_no_rows():
    pipeline, recorded = decoded("llama", 1, "chain", (5, 9), 12)
    plain = pipeline.generate([5, 9], max_new_tokens=12)
    run = run_record(pipeline)
    assert plain.token_ids == recorded.token_ids
    assert not [*node_rows(run, 0, plain)]
    assert {*next(node_rows(run, 0, recorded))} == {
        "run_id", "request_id", "step", *(a.name for a in Node.__attrs_attrs__)
    }  # fmt: skip


def test_a_notebook_shows_the_text_and_where_recorded_the_trees():
    pipeline, recorded = decoded("llama", 1, "chain", (5, 9), 12)
    plain = pipeline.generate([5, 9], max_new_tokens=12)
    assert [step.nodes for step in recorded.recorded.steps] == steps_of(recorded)
    assert "<iframe" in recorded._repr_html_()
    assert plain.recorded is None
    assert "<iframe" not in plain._repr_html_()
    assert plain._repr_html_().count("<span") == len(plain.token_ids)


def test_the_steps_are_a_frame():
    _, generation = decoded("llama", 1, "chain", (5, 9), 12)
    frame = generation.to_frame()
    assert frame["committed"].tolist() == [step.committed for step in generation.steps]
    assert [*frame.columns] == [a.name for a in generation.steps[0].__attrs_attrs__]
    assert f"<td>{generation.steps[0].nodes}</td>" in generation.steps[0]._repr_html_()


def test_without_pandas_and_polars_a_frame_says_what_is_missing(monkeypatch):
    _, generation = decoded("llama", 1, "chain", (5, 9), 3)
    monkeypatch.setattr("toolkit.generation.find_spec", lambda name: None)
    with pytest.raises(ToolkitError, match="pandas or polars"):
        generation.to_frame()
