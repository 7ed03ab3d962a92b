"""The list of properties: what each tests, for which strategies, and on which examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import hypothesis.strategies as st
import torch
from torch import Tensor

from toolkit.cascade_interfaces import Evidence
from toolkit.conformance import enumeration, generators, kv
from toolkit.conformance.cases import works_on
from toolkit.conformance.models import VOCABULARY
from toolkit.conformance.properties import (
    cascades,
    decoding,
    drafters,
    masks,
    shapers,
    verifiers,
)
from toolkit.conformance.property import Property, of_decodings, of_kind
from toolkit.conformance.tree_paths import nodes_at, tokens_to
from toolkit.conformance.under_test import CountedDrafter, Tally, UnderTest
from toolkit.interfaces import TOKEN_IDENTICAL
from toolkit.sampling import Sampler, Sampling
from toolkit.tree import TokenTree

FAMILIES = st.sampled_from(["llama", "gpt2", "gemma3"])  # grouped queries; no rotary; sliding layers


def _token_identical(subject: UnderTest) -> bool:
    return subject.exactness in TOKEN_IDENTICAL


def _texts(_: UnderTest) -> st.SearchStrategy[Any]:
    return st.tuples(generators.prompts(), st.integers(0, VOCABULARY - 1))


def _try_branches(subject: UnderTest, example: Any, tally: Tally) -> None:
    prompt, root = [*example[0]], example[1]
    drafters.branches_drafted_alone(lambda: subject.drafter(prompt, tally), prompt, root)


def _try_commits(subject: UnderTest, example: Any, tally: Tally) -> None:
    prompt, schedule = [*example[0]], example[1]
    drafters.drafts_from_committed_only(lambda p: subject.drafter(p, tally), prompt, schedule)


def _try_candidates(subject: UnderTest, example: Any, tally: Tally) -> None:
    prompt, tree, k = example
    drafters.candidates_in_order(subject.drafter([*prompt], tally), tree, k, VOCABULARY)


def padded_vocabularies_fit(drafter: CountedDrafter, schedule: generators.Schedule) -> None:
    """A draft model with a wider or narrower vocabulary than the target's accepts every token, and
    proposes only tokens of the target."""
    for tree, path in schedule:
        drafters.candidates_in_order(cast("Any", drafter), tree, 3, VOCABULARY)
        drafter.commit([tree.tokens[node] for node in path])


def _try_padding(subject: UnderTest, example: Any, tally: Tally) -> None:
    prompt, schedule, width = example
    padded_vocabularies_fit(subject.drafter([*prompt], tally, width), schedule)


def _answers(_: UnderTest) -> st.SearchStrategy[Any]:
    widths = st.lists(st.integers(0, 9), max_size=9)
    return st.lists(st.tuples(widths, st.integers(0, 99)), min_size=1, max_size=8)


def _try_growing(subject: UnderTest, steps: Any, tally: Tally) -> None:
    trees = shapers.any_answer_grows_a_tree(subject.build(), steps)
    tally["drafted"] += sum(len(tree) - 1 for tree in trees)


def _try_keeping_draws(subject: UnderTest, widths: list[int], tally: Tally) -> None:
    tally["drafted"] += shapers.keeps_the_first_draws(subject.build, widths)


def _evidence() -> st.SearchStrategy[Evidence]:
    """What is known of answers of 0 to 5 tokens."""
    token = st.tuples(st.floats(-40, 0), st.floats(0, 40))
    return st.builds(
        lambda tokens, prompt: Evidence(
            tuple(logprob for logprob, _ in tokens), tuple(margin for _, margin in tokens), prompt
        ),
        st.lists(token, max_size=5),
        st.integers(1, 99),
    )


@st.composite
def _judged(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """Pairs of a tree over a vocabulary of 4 and logits [N, 4] with ties. Equal paths have equal
    logits."""
    tree, seed = draw(generators.trees(vocabulary=4)), draw(st.integers(0, 2**31))
    rows = []
    for node in range(len(tree)):
        path = tokens_to(tree, node)
        rng = torch.Generator().manual_seed(hash((seed, *path)) % 2**31)
        rows.append(torch.randn(4, generator=rng, dtype=torch.double).round())
    return tree, torch.stack(rows)


def _samplers(subject: UnderTest) -> st.SearchStrategy[Sampler]:
    """Samplers at temperatures that the verifier is for."""
    greedy = subject.exactness == "greedy"
    sampling = st.just(Sampling()) if greedy else generators.samplings()
    return st.builds(Sampler, sampling, st.integers(0, 99), st.integers(0, 99))


def _try_accepting(subject: UnderTest, example: Any, tally: Tally) -> None:
    (tree, logits), sampler = example
    verifiers.accepts_what_ar_says(subject.build(), tree, logits, sampler)
    _count_children(tally, tree, logits, sampler)


def _try_reordering(subject: UnderTest, example: Any, tally: Tally) -> None:
    (tree, logits), sampler, rng = example
    verifiers.siblings_in_any_order(subject.build(), tree, logits, sampler, rng)
    _count_children(tally, tree, logits, sampler)


def _pairs_of_trees(subject: UnderTest) -> st.SearchStrategy[Any]:
    trees = generators.trees(nodes=4, vocabulary=enumeration.VOCABULARY)
    proposals = sorted(subject.build().assumes)
    if {"fixed", "sampled"} <= {*proposals}:
        proposals.append("mixed")
    seeds, samplings = st.integers(0, 2**31), generators.samplings()
    return st.tuples(st.tuples(trees, trees), seeds, samplings, st.sampled_from(proposals))


def _try_enumerating(subject: UnderTest, example: Any, tally: Tally) -> None:
    trees, seed, sampling, proposal = example
    lengths = verifiers.law_is_the_targets(subject.build, trees, seed, sampling, proposal)
    most = sum(tree.depth + 1 for tree in trees)
    tally["drafted"] += sum(len(tree) - 1 for tree in trees)
    tally["accepted"] += sum(length > len(trees) for length in lengths)
    tally["rejected"] += sum(length < most for length in lengths)


def _samples(subject: UnderTest) -> bool:
    return subject.exactness in ("token", "distribution")


def _try_repeating(subject: UnderTest, example: Any, tally: Tally) -> None:
    cases, sampler = example
    verifiers.judges_without_memory(subject.build, cases, sampler.sampling)
    for tree, logits in cases:
        _count_children(tally, tree, logits, sampler)


def _count_children(tally: Tally, tree: TokenTree, logits: Tensor, sampler: Sampler) -> None:
    said, drafted = sampler.token(logits[0], 0), len(tree) - 1
    right = sum(tree.tokens[node] == said for node in nodes_at(tree, 1))
    tally["drafted"] += drafted
    tally["accepted"] += right
    tally["rejected"] += drafted - right


def _try_tree_pass(subject: UnderTest, example: Any, tally: Tally) -> None:
    family, prefix, tree = example
    session = subject.session(family)
    session.prefill([*prefix])

    def alone(ids: list[int]) -> Any:
        return subject.session(family).forward(ids, list(range(-1, len(ids) - 1)))

    masks.node_sees_its_path(session, tree, [*prefix], alone)
    tally["drafted"] += len(tree) - 1
    length = len(prefix) + tree.depth + 1
    tally["hidden"] += masks.hidden_pairs(subject.build(), length)


def _nodes(_: UnderTest) -> st.SearchStrategy[Any]:
    return st.tuples(FAMILIES, generators.prompts(), generators.trees())


def _positions(_: UnderTest) -> st.SearchStrategy[Any]:
    ids = st.lists(st.integers(0, 63), min_size=1, max_size=6, unique=True)
    return st.tuples(ids, ids)


def _try_visibility(subject: UnderTest, example: Any, tally: Tally) -> None:
    queries, keys = map(torch.tensor, example)
    tally["hidden"] += masks.visible_by_position_alone(subject.build, queries, keys)


def _try_budget(subject: UnderTest, length: int, tally: Tally) -> None:
    tally["hidden"] += masks.sees_at_most_its_budget(subject.build(), length)


def _try_staying_hidden(subject: UnderTest, length: int, tally: Tally) -> None:
    tally["hidden"] += masks.hidden_stays_hidden(subject.build(), length)


def _try_schedule(subject: UnderTest, example: Any, tally: Tally) -> None:
    family, (words, prompt), schedule = example
    if works_on(subject.choice, family):
        text = [*subject.stretch(words[:prompt]), *words]
        evicted = kv.schedule_does_not_matter(
            lambda: subject.session(family), text, len(text) - len(words), schedule
        )
        hidden = masks.hidden_pairs(subject.build(), len(text)) if subject.mask else 0
        tally["hidden"] += evicted + hidden


def _try_protection(subject: UnderTest, example: Any, tally: Tally) -> None:
    family, (words, prompt) = example
    if works_on(subject.choice, family):
        text = [*subject.stretch(words[:prompt]), *words]
        session = subject.session(family)
        tally["hidden"] += kv.protected_rows_stay(session, text, len(text) - len(words))


def _with_prompt(*more: st.SearchStrategy[Any]) -> Callable[[UnderTest], st.SearchStrategy[Any]]:
    return lambda _: st.tuples(generators.prompts(), *more)


PROPERTIES: tuple[Property, ...] = (
    of_kind(drafters.branches_drafted_alone, "drafter", _texts, _try_branches, "drafted"),
    of_kind(
        drafters.drafts_from_committed_only,
        "drafter",
        _with_prompt(generators.schedules()),
        _try_commits,
        "drafted",
    ),
    of_kind(
        drafters.candidates_in_order,
        "drafter",
        _with_prompt(generators.trees(), st.integers(1, 9)),
        _try_candidates,
        "drafted",
    ),
    of_kind(
        padded_vocabularies_fit,
        "drafter",
        _with_prompt(generators.schedules(), st.sampled_from([VOCABULARY + 31, VOCABULARY - 7])),
        _try_padding,
        "drafted",
        applies=lambda subject: subject.models,
    ),
    of_kind(shapers.any_answer_grows_a_tree, "shaper", _answers, _try_growing, "drafted"),
    of_kind(
        shapers.keeps_the_first_draws,
        "shaper",
        lambda _: st.lists(st.integers(0, 5), max_size=9),
        _try_keeping_draws,
        "drafted",
        applies=lambda subject: not subject.prunes,
    ),
    of_kind(
        verifiers.accepts_what_ar_says,
        "verifier",
        lambda subject: st.tuples(_judged(), _samplers(subject)),
        _try_accepting,
        "accepted",
        "rejected",
        applies=_token_identical,
    ),
    of_kind(
        verifiers.law_is_the_targets,
        "verifier",
        _pairs_of_trees,
        _try_enumerating,
        "accepted",
        "rejected",
        applies=_samples,
        proves=("distribution",),
    ),
    of_kind(
        verifiers.siblings_in_any_order,
        "verifier",
        lambda subject: st.tuples(_judged(), _samplers(subject), st.randoms(use_true_random=False)),
        _try_reordering,
        "accepted",
        "rejected",
        applies=_token_identical,
    ),
    of_kind(
        verifiers.judges_without_memory,
        "verifier",
        lambda subject: st.tuples(st.lists(_judged(), min_size=1, max_size=4), _samplers(subject)),
        _try_repeating,
        "accepted",
        "rejected",
    ),
    of_kind(
        masks.visible_by_position_alone,
        "kv",
        _positions,
        _try_visibility,
        "hidden",
        applies=lambda s: s.mask,
    ),
    of_kind(
        masks.sees_at_most_its_budget,
        "kv",
        lambda _: st.integers(1, 200),
        _try_budget,
        "hidden",
        applies=lambda s: s.mask,
    ),
    of_kind(
        masks.hidden_stays_hidden,
        "kv",
        lambda _: st.integers(1, 200),
        _try_staying_hidden,
        "hidden",
        applies=lambda s: s.mask,
    ),
    of_kind(
        cascades.scores_are_probabilities,
        "scorer",
        lambda _: st.lists(_evidence(), min_size=2, max_size=6),
        lambda subject, answers, _: cascades.scores_are_probabilities(subject.build, answers),
    ),
    of_kind(
        cascades.stops_alike_again,
        "policy",
        lambda _: st.tuples(st.integers(0, 999), st.sampled_from([0.0, 1.0, 20.0])),
        lambda subject, example, _: cascades.stops_alike_again(subject.build, *example),
    ),
    of_kind(
        cascades.answers_every_prompt,
        "policy",
        lambda _: st.integers(0, 999),
        lambda subject, seed, _: cascades.answers_every_prompt(subject.build, seed),
    ),
    of_kind(
        cascades.quality_rises_with_lambda,
        "policy",
        lambda _: st.integers(0, 999),
        lambda subject, seed, _: cascades.quality_rises_with_lambda(subject.build, seed),
        applies=lambda s: s.choice.cls.minimises,
    ),
    of_kind(
        cascades.grades_are_read_of_stages_that_ran,
        "policy",
        lambda _: st.integers(0, 999),
        lambda subject, seed, _: cascades.grades_are_read_of_stages_that_ran(subject.build, seed),
    ),
    of_kind(
        masks.node_sees_its_path, "kv", _nodes, _try_tree_pass, "hidden", applies=lambda s: s.mask
    ),
    of_kind(
        kv.schedule_does_not_matter,
        "kv",
        lambda _: st.tuples(FAMILIES, generators.texts(), generators.passes()),
        _try_schedule,
        "hidden",
    ),
    of_kind(
        kv.protected_rows_stay,
        "kv",
        lambda _: st.tuples(FAMILIES, generators.texts()),
        _try_protection,
        "hidden",
        applies=lambda s: s.scores,
    ),
    # whole decodings come last: what fails above is the cause of what fails here
    of_decodings(decoding.tokens_equal_ar, applies=_token_identical, proves=TOKEN_IDENTICAL),
    of_decodings(decoding.cache_equals_ar, applies=_token_identical),
    of_decodings(decoding.stops_in_time),
    of_decodings(decoding.trees_within_budget, kinds=frozenset({"shaper"})),
    of_decodings(decoding.requests_are_independent),
    of_decodings(decoding.repeats_exactly),
)


def applicable(subject: UnderTest) -> list[Property]:
    """The properties that apply to a strategy, by its kind and its declarations."""
    return [p for p in PROPERTIES if subject.kind in p.kinds and p.applies(subject)]
