"""Properties of whole decodings, tested on cases."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from toolkit.conformance.cases import Case
from toolkit.conformance.comparison import GLOBAL_RANDOM, Broken, require_same_rows, snapshot
from toolkit.errors import StrategyError
from toolkit.pipeline import Pipeline
from toolkit.registry import Registry
from toolkit.stream import Stream


def decode(pipeline: Pipeline, case: Case) -> Stream:
    """Decode a case to its end and return its stream."""
    stream = open_stream(pipeline, case)
    for _ in stream.decode():
        pass
    return stream


def open_stream(pipeline: Pipeline, case: Case) -> Stream:
    """The stream of a case, not decoded yet."""
    return pipeline.stream(case.prompt, max_new_tokens=case.max_new_tokens, seed=case.sampling_seed)


def tokens_equal_ar(case: Case, registry: Registry) -> None:
    """The tokens are exactly those of AR under the same KV policy. Where they are sampled, AR has the
    same seed."""
    pipeline = case.pipeline(registry)
    require_same_tokens(decode(pipeline, case), decode(pipeline.autoregressive, case), case)


def require_same_tokens(ours: Stream, ar: Stream, case: Case) -> None:
    """Raise `Broken` when a decoding emitted other tokens than AR."""
    one, other = ours.result.token_ids, ar.result.token_ids
    if one != other:
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        raise Broken(f"token {at} differs, in {case}: ours {one}, AR {other}")


def cache_equals_ar(case: Case, registry: Registry) -> tuple[Stream, Stream]:
    """After every commit, the target's cache holds the positions, keys and values of AR at the same
    length; returns the decoding and AR's."""
    pipeline = case.pipeline(registry)
    ar = open_stream(pipeline.autoregressive, case)
    held = {}
    for _ in ar.decode():
        held[ar.target.length] = snapshot(ar.target.cache)
    stream = open_stream(pipeline, case)
    emitted = 0
    for event in stream.decode():
        emitted += len(event.tokens)
        length = stream.target.length
        if length != len(case.prompt) + emitted - 1:
            raise Broken(f"{length} tokens cached after {emitted} were emitted, in {case}")
        require_same_rows(
            snapshot(stream.target.cache), held[length], f"at length {length}, in {case}"
        )
    return stream, ar


def stops_in_time(case: Case, registry: Registry) -> None:
    """Decoding ends at a stop id or at `max_new_tokens`, and emits nothing after either."""
    stream = decode(case.pipeline(registry), case)
    ids, stop_ids = stream.result.token_ids, stream.stop_ids
    if any(token in stop_ids for token in ids[:-1]):
        raise Broken(f"tokens after a stop id, in {case}: {ids}")
    if len(ids) > case.max_new_tokens:
        raise Broken(f"{len(ids)} tokens, {case.max_new_tokens} asked for, in {case}")
    if len(ids) < case.max_new_tokens and ids[-1] not in stop_ids:
        raise Broken(f"stopped after {len(ids)} of {case.max_new_tokens} tokens, in {case}")


def trees_within_budget(case: Case, registry: Registry) -> None:
    """No tree has more nodes than its shaper declares."""
    try:
        decode(case.pipeline(registry), case)
    except StrategyError as error:
        raise Broken(f"{error}, in {case}") from error


def requests_are_independent(case: Case, registry: Registry) -> None:
    """Two requests through one pipeline equal two pipelines: same tokens, trees and caches."""
    case = case.untimed
    alone, pipeline = decode(case.pipeline(registry), case), case.pipeline(registry)
    decode(pipeline, case)
    second = decode(pipeline, case)
    _same_steps(second, alone, "a second request", case)
    caches = snapshot(second.target.cache), snapshot(alone.target.cache)
    require_same_rows(*caches, f"after a second request, in {case}")


def repeats_exactly(case: Case, registry: Registry) -> None:
    """The same request gives the same tokens and trees for any global random state, and does not
    change that state."""
    case, runs = case.untimed, []
    for seed in (1, 2):
        pipeline = case.pipeline(registry)
        pipeline.load()
        with torch.random.fork_rng(devices=[]), _python_random(seed):
            torch.manual_seed(seed)
            before = torch.get_rng_state(), random.getstate()
            runs.append(decode(pipeline, case))
            if not torch.equal(torch.get_rng_state(), before[0]) or random.getstate() != before[1]:
                raise Broken(f"{GLOBAL_RANDOM}, in {case}")
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
    """Raise `Broken` unless both emitted the same tokens with the same trees."""
    for one, other in zip(ours.events, theirs.events, strict=False):
        if one.tree is not None and other.tree is not None:
            same = one.tree.tokens == other.tree.tokens
            if not same or one.tree.parents != other.tree.parents:
                raise Broken(f"{what} grew another tree, in {case}")
        if one.tokens != other.tokens:
            raise Broken(f"{what} emitted other tokens, in {case}")
    if len(ours.events) != len(theirs.events):
        raise Broken(f"{what} took another number of steps, in {case}")


PER_CASE = (
    tokens_equal_ar,
    cache_equals_ar,
    stops_in_time,
    trees_within_budget,
    requests_are_independent,
    repeats_exactly,
)
