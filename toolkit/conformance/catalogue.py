"""Every property of the kit: its sentence, whom it binds, what it is tried on, what it must meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import attrs
import hypothesis.strategies as st
import torch
from torch import Tensor

from toolkit.choice import Kind
from toolkit.conformance import kv, parts, properties, strategies
from toolkit.conformance.generators import Case, works_on
from toolkit.conformance.models import VOCABULARY
from toolkit.conformance.nodes import level, tokens_to
from toolkit.conformance.subject import Proposals, Subject
from toolkit.interfaces import Exactness
from toolkit.tree import TokenTree

FEW = st.sampled_from(["llama", "gpt2", "gemma3"])  # grouped queries, no rotary, sliding layers
EVERYONE: frozenset[Kind] = frozenset({"drafter", "shaper", "verifier", "kv"})
Tally = Counter[str]
"""What came up in the examples: `drafted`, `accepted`, `rejected`, `hidden`, each a count."""


@attrs.frozen
class Property:
    """One thing that must hold, for the kinds that it binds.

    `examples` says what it is tried on, `holds` tries one example, counts what came up, and raises
    `Broken` or whatever the strategy raises. Without all that it `needs` having come up, nothing was
    shown. `proves` names the exactness that holding it stands for.
    """

    name: str
    sentence: str
    kinds: frozenset[Kind]
    examples: Callable[[Subject], st.SearchStrategy[Any]]
    holds: Callable[[Subject, Any, Tally], None]
    needs: frozenset[str]
    applies: Callable[[Subject], bool] = lambda _: True
    proves: Exactness | None = None

    def missing(self, subject: Subject, tally: Tally) -> set[str]:
        """What should have come up in the examples, and did not."""
        hides = {"hidden"} if subject.kind == "kv" else set()
        return {what for what in self.needs | hides if not tally[what]}


def sentence(law: Callable[..., Any]) -> str:
    """A property's docstring, up to the first semicolon or full stop, in one line."""
    text = " ".join((law.__doc__ or "").split())
    return text.partition("; returns")[0].partition(". ")[0].rstrip(".")


def name_of(law: Callable[..., Any]) -> str:
    """A property's name, from its function's."""
    return law.__name__.replace("_", "-")


def _whole(law: Callable[..., None], **rules: Any) -> Property:
    """A property of whole decodings: tried on cases."""

    def holds(subject: Subject, case: Case, tally: Tally) -> None:
        with subject.watched(tally):
            law(case, subject.registry)

    return Property(
        name_of(law),
        sentence(law),
        rules.pop("kinds", EVERYONE),
        lambda subject: subject.cases(),
        holds,
        frozenset({"drafted", "accepted", "rejected"}),
        **rules,
    )


def _part(
    law: Callable[..., Any],
    kind: Kind,
    examples: Callable[[Subject], st.SearchStrategy[Any]],
    holds: Callable[[Subject, Any, Tally], None],
    *needs: str,
    **rules: Any,
) -> Property:
    """A property of one part: tried on what that part is given."""
    return Property(
        name_of(law), sentence(law), frozenset({kind}), examples, holds, frozenset(needs), **rules
    )


def _greedy(subject: Subject) -> bool:
    return subject.kind != "verifier" or subject.exactness == "greedy"


def _texts(_: Subject) -> st.SearchStrategy[Any]:
    return st.tuples(strategies.prompts(), st.integers(0, VOCABULARY - 1))


def _branches(subject: Subject, example: Any, tally: Tally) -> None:
    prompt, root = [*example[0]], example[1]
    properties.branches_drafted_alone(lambda: subject.drafter(prompt, tally), prompt, root)


def _committed(subject: Subject, example: Any, tally: Tally) -> None:
    prompt, schedule = [*example[0]], example[1]
    properties.drafts_from_committed_only(lambda p: subject.drafter(p, tally), prompt, schedule)


def _candidates(subject: Subject, example: Any, tally: Tally) -> None:
    prompt, tree, k = example
    parts.candidates_in_order(subject.drafter([*prompt], tally), tree, k, VOCABULARY)


def padded_vocabularies_fit(drafter: Proposals, schedule: strategies.Schedule) -> None:
    """A model whose embeddings are padded, wider or narrower than the target's, drafts known ids
    and takes any."""
    for tree, path in schedule:
        parts.candidates_in_order(cast("Any", drafter), tree, 3, VOCABULARY)
        drafter.commit([tree.tokens[node] for node in path])


def _padded(subject: Subject, example: Any, tally: Tally) -> None:
    prompt, schedule, width = example
    padded_vocabularies_fit(subject.drafter([*prompt], tally, width), schedule)


def _answers(_: Subject) -> st.SearchStrategy[Any]:
    widths = st.lists(st.integers(0, 9), max_size=9)
    return st.lists(st.tuples(widths, st.integers(0, 99)), min_size=1, max_size=8)


def _grows(subject: Subject, steps: Any, tally: Tally) -> None:
    trees = parts.any_answer_grows_a_tree(subject.build(), steps)
    tally["drafted"] += sum(len(tree) - 1 for tree in trees)


def _keeps(subject: Subject, widths: list[int], tally: Tally) -> None:
    tally["drafted"] += parts.draws_are_all_kept(subject.build, widths)


@st.composite
def _judged(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """A tree over a vocabulary of 4 and logits [N, 4], the same after the same path, ties among
    them."""
    tree, seed = draw(strategies.trees(vocabulary=4)), draw(st.integers(0, 2**31))
    rows = []
    for node in range(len(tree)):
        path = tokens_to(tree, node)
        rng = torch.Generator().manual_seed(hash((seed, *path)) % 2**31)
        rows.append(torch.randn(4, generator=rng, dtype=torch.double).round())
    return tree, torch.stack(rows)


def _accepts(subject: Subject, example: Any, tally: Tally) -> None:
    tree, logits = example
    properties.accepts_what_ar_says(subject.build(), tree, logits)
    _count(tally, tree, logits)


def _mirrors(subject: Subject, example: Any, tally: Tally) -> None:
    (tree, logits), rng = example
    parts.siblings_in_any_order(subject.build(), tree, logits, rng)
    _count(tally, tree, logits)


def _remembers(subject: Subject, cases: Any, tally: Tally) -> None:
    parts.judges_without_memory(subject.build, cases)
    for tree, logits in cases:
        _count(tally, tree, logits)


def _count(tally: Tally, tree: TokenTree, logits: Tensor) -> None:
    said, drafted = int(logits[0].argmax()), len(tree) - 1
    right = sum(tree.tokens[node] == said for node in level(tree, 1))
    tally["drafted"] += drafted
    tally["accepted"] += right
    tally["rejected"] += drafted - right


def _node(subject: Subject, example: Any, tally: Tally) -> None:
    family, prefix, tree = example
    session = subject.session(family)
    session.prefill([*prefix])

    def alone(ids: list[int]) -> Any:
        return subject.session(family).forward(ids, list(range(-1, len(ids) - 1)))

    properties.node_sees_its_path(session, tree, [*prefix], alone)
    tally["drafted"] += len(tree) - 1
    length = len(prefix) + tree.depth + 1
    tally["hidden"] += parts.hidden_pairs(subject.build(), length)


def _nodes(_: Subject) -> st.SearchStrategy[Any]:
    return st.tuples(FEW, strategies.prompts(), strategies.trees())


def _positions(_: Subject) -> st.SearchStrategy[Any]:
    ids = st.lists(st.integers(0, 63), min_size=1, max_size=6, unique=True)
    return st.tuples(ids, ids)


def _visible(subject: Subject, example: Any, tally: Tally) -> None:
    queries, keys = map(torch.tensor, example)
    tally["hidden"] += parts.visible_by_position_alone(subject.build, queries, keys)


def _budget(subject: Subject, length: int, tally: Tally) -> None:
    tally["hidden"] += parts.sees_at_most_its_budget(subject.build(), length)


def _stays(subject: Subject, length: int, tally: Tally) -> None:
    tally["hidden"] += parts.hidden_stays_hidden(subject.build(), length)


def _scheduled(subject: Subject, example: Any, tally: Tally) -> None:
    family, (words, prompt), schedule = example
    if works_on(subject.choice, family):
        text = [*subject.stretched(words[:prompt]), *words]
        evicted = kv.schedule_does_not_matter(
            lambda: subject.session(family), text, len(text) - len(words), schedule
        )
        hidden = parts.hidden_pairs(subject.build(), len(text)) if subject.mask else 0
        tally["hidden"] += evicted + hidden


def _protected(subject: Subject, example: Any, tally: Tally) -> None:
    family, (words, prompt) = example
    if works_on(subject.choice, family):
        text = [*subject.stretched(words[:prompt]), *words]
        session = subject.session(family)
        tally["hidden"] += kv.protected_rows_stay(session, text, len(text) - len(words))


def _prompted(*more: st.SearchStrategy[Any]) -> Callable[[Subject], st.SearchStrategy[Any]]:
    return lambda _: st.tuples(strategies.prompts(), *more)


PROPERTIES: tuple[Property, ...] = (
    _whole(properties.tokens_equal_ar, applies=_greedy, proves="greedy"),
    _whole(properties.cache_equals_ar, applies=_greedy),
    _whole(properties.stops_in_time),
    _whole(properties.trees_within_budget, kinds=frozenset({"shaper"})),
    _whole(properties.requests_are_independent),
    _whole(properties.repeats_exactly),
    _part(properties.branches_drafted_alone, "drafter", _texts, _branches, "drafted"),
    _part(
        properties.drafts_from_committed_only,
        "drafter",
        _prompted(strategies.schedules()),
        _committed,
        "drafted",
    ),
    _part(
        parts.candidates_in_order,
        "drafter",
        _prompted(strategies.trees(), st.integers(1, 9)),
        _candidates,
        "drafted",
    ),
    _part(
        padded_vocabularies_fit,
        "drafter",
        _prompted(strategies.schedules(), st.sampled_from([VOCABULARY + 31, VOCABULARY - 7])),
        _padded,
        "drafted",
        applies=lambda subject: subject.models,
    ),
    _part(parts.any_answer_grows_a_tree, "shaper", _answers, _grows, "drafted"),
    _part(
        parts.draws_are_all_kept,
        "shaper",
        lambda _: st.lists(st.integers(0, 5), max_size=9),
        _keeps,
        "drafted",
        applies=lambda subject: not subject.prunes,
    ),
    _part(
        properties.accepts_what_ar_says,
        "verifier",
        lambda _: _judged(),
        _accepts,
        "accepted",
        "rejected",
        applies=_greedy,
    ),
    _part(
        parts.siblings_in_any_order,
        "verifier",
        lambda _: st.tuples(_judged(), st.randoms(use_true_random=False)),
        _mirrors,
        "accepted",
        "rejected",
        applies=_greedy,
    ),
    _part(
        parts.judges_without_memory,
        "verifier",
        lambda _: st.lists(_judged(), min_size=1, max_size=4),
        _remembers,
        "accepted",
        "rejected",
    ),
    _part(
        kv.schedule_does_not_matter,
        "kv",
        lambda _: st.tuples(FEW, strategies.texts(), strategies.passes()),
        _scheduled,
        "hidden",
    ),
    _part(
        kv.protected_rows_stay,
        "kv",
        lambda _: st.tuples(FEW, strategies.texts()),
        _protected,
        "hidden",
        applies=lambda s: s.scores,
    ),
    _part(properties.node_sees_its_path, "kv", _nodes, _node, "hidden", applies=lambda s: s.mask),
    _part(
        parts.visible_by_position_alone,
        "kv",
        _positions,
        _visible,
        "hidden",
        applies=lambda s: s.mask,
    ),
    _part(
        parts.sees_at_most_its_budget,
        "kv",
        lambda _: st.integers(1, 200),
        _budget,
        "hidden",
        applies=lambda s: s.mask,
    ),
    _part(
        parts.hidden_stays_hidden,
        "kv",
        lambda _: st.integers(1, 200),
        _stays,
        "hidden",
        applies=lambda s: s.mask,
    ),
)


def binding(subject: Subject) -> list[Property]:
    """The properties that bind a strategy of this kind with these declarations."""
    return [p for p in PROPERTIES if subject.kind in p.kinds and p.applies(subject)]
