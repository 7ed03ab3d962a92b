"""The promise, one property a function, one sentence each. A broken property raises `Broken`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from toolkit.conformance.generators import Case
from toolkit.conformance.nodes import level, path_to, tokens_to
from toolkit.errors import StrategyError
from toolkit.interfaces import Drafter, Session, Verifier
from toolkit.pipeline import Pipeline
from toolkit.registry import Registry
from toolkit.runtime.kv.cache import TreeCache
from toolkit.stream import Stream
from toolkit.tree import Candidates, TokenTree

TOLERANCE = 1e-9  # float64: schedules differ by 1e-14, bugs by far more
Forward = Callable[[list[int]], Tensor]  # token ids → logits [T, V], without a cache


class Broken(AssertionError):  # noqa: N818 a property is broken, not in error
    """A property does not hold; the message says where."""


def decoded(pipeline: Pipeline, case: Case) -> Stream:
    """The case decoded to its end."""
    stream = pipeline.stream(case.prompt, max_new_tokens=case.max_new_tokens)
    for _ in stream.decode():
        pass
    return stream


def tokens_equal_ar(case: Case, registry: Registry) -> None:
    """The tokens are exactly those of AR under the same KV policy."""
    pipeline = case.pipeline(registry)
    ours = decoded(pipeline, case).result.token_ids
    ar = decoded(pipeline.autoregressive, case).result.token_ids
    if ours != ar:
        at = next((i for i, (a, b) in enumerate(zip(ours, ar, strict=False)) if a != b), None)
        raise Broken(f"token {at} differs, in {case}: ours {ours}, AR {ar}")


def cache_equals_ar(case: Case, registry: Registry) -> None:
    """After every commit, the target holds the positions, keys and values that AR holds at the same
    length."""
    pipeline = case.pipeline(registry)
    ar = pipeline.autoregressive.stream(case.prompt, max_new_tokens=case.max_new_tokens)
    held = {}
    for _ in ar.decode():
        held[ar.target.length] = snapshot(ar.target.cache)
    stream = pipeline.stream(case.prompt, max_new_tokens=case.max_new_tokens)
    emitted = 0
    for event in stream.decode():
        emitted += len(event.tokens)
        length = stream.target.length
        if length != len(case.prompt) + emitted - 1:
            raise Broken(f"{length} tokens cached after {emitted} were emitted, in {case}")
        same_rows(snapshot(stream.target.cache), held[length], f"at length {length}, in {case}")


Rows = list[tuple[Tensor, Tensor, Tensor]]  # of each layer: positions, keys and values


def snapshot(cache: TreeCache) -> Rows:
    """A copy of a cache's committed rows; empty ones are zero, whatever they hold."""
    return [
        (held.clone(), keys * (held >= 0)[..., None], values * (held >= 0)[..., None])
        for held, keys, values in cache.committed()
    ]


def same_rows(ours: Rows, theirs: Rows, where: str, tolerance: float = TOLERANCE) -> None:
    """Raise `Broken` when two snapshots differ."""
    for layer, (mine, wanted) in enumerate(zip(ours, theirs, strict=True)):
        if mine[0].tolist() != wanted[0].tolist():
            raise Broken(
                f"layer {layer} holds positions {mine[0].tolist()}, AR {wanted[0].tolist()}, {where}"
            )
        for held, right in zip(mine[1:], wanted[1:], strict=True):
            close(held, right, f"layer {layer} {where}", tolerance)


def stops_in_time(case: Case, registry: Registry) -> None:
    """Nothing is emitted past a stop id or past `max_new_tokens`, and the loop ends at either."""
    stream = decoded(case.pipeline(registry), case)
    ids, stop_ids = stream.result.token_ids, stream.target.model.stop_ids
    if any(token in stop_ids for token in ids[:-1]):
        raise Broken(f"tokens after a stop id, in {case}: {ids}")
    if len(ids) > case.max_new_tokens:
        raise Broken(f"{len(ids)} tokens, {case.max_new_tokens} asked for, in {case}")
    if len(ids) < case.max_new_tokens and ids[-1] not in stop_ids:
        raise Broken(f"stopped after {len(ids)} of {case.max_new_tokens} tokens, in {case}")


def trees_within_budget(case: Case, registry: Registry) -> None:
    """No tree has more nodes than its shaper declares."""
    try:
        decoded(case.pipeline(registry), case)
    except StrategyError as error:
        raise Broken(f"{error}, in {case}") from error


def requests_are_independent(case: Case, registry: Registry) -> None:
    """Two requests through one pipeline equal two pipelines: same tokens, trees and caches."""
    alone, pipeline = decoded(case.pipeline(registry), case), case.pipeline(registry)
    decoded(pipeline, case)
    second = decoded(pipeline, case)
    _same_steps(second, alone, "a second request", case)
    caches = snapshot(second.target.cache), snapshot(alone.target.cache)
    same_rows(*caches, f"after a second request, in {case}")


def repeats_exactly(case: Case, registry: Registry) -> None:
    """The same request gives the same tokens and trees, whatever the global random state, and
    leaves that state alone."""
    runs = []
    for seed in (1, 2):
        pipeline = case.pipeline(registry)
        pipeline.load()
        with torch.random.fork_rng(devices=[]), _python_random(seed):
            torch.manual_seed(seed)
            before = torch.get_rng_state(), random.getstate()
            runs.append(decoded(pipeline, case))
            if not torch.equal(torch.get_rng_state(), before[0]) or random.getstate() != before[1]:
                raise Broken(
                    f"the global random state was moved: use the generator given, in {case}"
                )
    _same_steps(runs[0], runs[1], "the same request", case)


@contextmanager
def _python_random(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _same_steps(ours: Stream, theirs: Stream, what: str, case: Case) -> None:
    """Raise `Broken` unless both emitted the same tokens by the same trees."""
    if len(ours.events) != len(theirs.events):
        raise Broken(f"{what} took another number of steps, in {case}")
    for one, other in zip(ours.events, theirs.events, strict=True):
        if one.tokens != other.tokens:
            raise Broken(f"{what} emitted other tokens, in {case}")
        if one.tree is not None and other.tree is not None:
            same = one.tree.tokens == other.tree.tokens
            if not same or one.tree.parents != other.tree.parents:
                raise Broken(f"{what} grew another tree, in {case}")


def node_sees_its_path(session: Session, tree: TokenTree, prefix: list[int], full: Forward) -> None:
    """Every node's logits are those of its own path alone: position is depth, siblings unseen."""
    logits = session.forward(tree.tokens, tree.parents)
    for node in range(len(tree)):
        alone = full(prefix + tokens_to(tree, node))[-1]
        close(logits[node], alone, f"node {node} of {tree.parents}")


def branches_drafted_alone(
    make: Callable[[], Drafter], prompt: list[int], root: int, depth: int = 3
) -> None:
    """A drafter answers a node in a branching tree as it does when the node's path is all there is.

    `make` gives a started drafter, each time a fresh one.
    """
    drafter, tree, frontier = make(), TokenTree.root(root), [0]
    for _ in range(depth):
        candidates = drafter.expand(tree, frontier, 2)
        for row, node in enumerate(frontier):
            tokens, logprobs = _proposed(candidates, row)
            alone, wanted = _alone(make(), tree, node)
            if tokens != alone:
                raise Broken(
                    f"node {node} of {tree.parents} drafted {tokens}, alone {alone}, after {prompt}"
                )
            close(logprobs, wanted, f"node {node}", 1e-4)
        first = len(tree)
        tree = tree.grow(frontier, candidates)
        frontier = list(range(first, len(tree)))
        if not frontier:
            return


def _alone(drafter: Drafter, tree: TokenTree, node: int) -> tuple[list[int], Tensor]:
    """What a fresh drafter proposes after a node when its path is the whole tree."""
    path = tree.subtree(path_to(tree, node))
    for tip in range(len(path)):
        answer = drafter.expand(path.first(tip + 1), [tip], 2)
    return _proposed(answer, 0)


def _proposed(candidates: Candidates, row: int) -> tuple[list[int], Tensor]:
    """A row's tokens and log-probabilities [K], without the slots that hold none."""
    both = zip(candidates.tokens[row], candidates.logprobs[row], strict=True)
    held = [(token, logprob) for token, logprob in both if logprob != -torch.inf]
    return [token for token, _ in held], _doubles([logprob for _, logprob in held])


def drafts_from_committed_only(
    make: Callable[[list[int]], Drafter],
    prompt: list[int],
    steps: list[tuple[TokenTree, list[int]]],
) -> None:
    """After any trees and commits, a drafter answers as a fresh one that was given the same text.

    `make` gives a drafter started on a prompt; each step is a tree to expand everywhere and the
    path of its nodes that is committed.
    """
    drafter, text = make(prompt), prompt
    for tree, path in steps:
        for depth in range(tree.depth + 1):
            drafter.expand(tree, level(tree, depth), 2)
        committed = [tree.tokens[node] for node in path]
        drafter.commit(committed)
        text = text + committed
        root = TokenTree.root(tree.tokens[0])
        ours, fresh = drafter.expand(root, [0], 3), make(text).expand(root, [0], 3)
        if ours.tokens != fresh.tokens:
            raise Broken(f"after {text}: {ours.tokens}, fresh {fresh.tokens}")
        close(_doubles(ours.logprobs), _doubles(fresh.logprobs), f"after {text}", 1e-4)
        drafter.commit(root.tokens)
        text = text + root.tokens


def accepts_what_ar_says(verifier: Verifier, tree: TokenTree, logits: Tensor) -> None:
    """The path is the longest that follows the target's argmax, and the bonus its argmax there."""
    verdict = verifier.judge(tree, logits, torch.Generator())
    choice = logits.argmax(-1).tolist()
    reached = {0: 1}
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        if parent in reached and tree.tokens[node] == choice[parent]:
            reached[node] = reached[parent] + 1
    path = verdict.path
    steps = zip([-1, *path[:-1]], path, strict=True)
    if not path or any(n not in reached or tree.parents[n] != p for p, n in steps):
        raise Broken(f"path {path} is not one that AR takes: {sorted(reached)}")
    if len(path) != max(reached.values()):
        raise Broken(f"path {path} stops early, {max(reached.values())} nodes were right")
    if verdict.bonus != choice[path[-1]]:
        raise Broken(f"bonus {verdict.bonus}, the target says {choice[path[-1]]}")


def _doubles(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def close(ours: Tensor, theirs: Tensor, where: str, tolerance: float = TOLERANCE) -> None:
    """Raise `Broken` when two tensors differ by more than `tolerance` somewhere."""
    finite = torch.isfinite(theirs)
    worst = float((ours - theirs)[finite].abs().max()) if finite.any() else 0.0
    if worst > tolerance or not torch.equal(torch.isfinite(ours), finite):
        raise Broken(f"off by {worst:.2g}: {where}")


PER_CASE = (
    tokens_equal_ar,
    cache_equals_ar,
    stops_in_time,
    trees_within_budget,
    requests_are_independent,
    repeats_exactly,
)
