"""The properties of KV policies that hold for every schedule of passes, one per function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
from torch import Tensor

from toolkit.conformance.comparison import (
    TOLERANCE,
    Broken,
    Snapshot,
    require_close,
    require_same_rows,
    snapshot,
)
from toolkit.conformance.generators import ScheduledPass
from toolkit.interfaces import ScorePolicy
from toolkit.kv_view import KVView
from toolkit.runtime.kv import selection
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.session import ModelSession

POISON = 1e4  # finite and large: the weight of a masked row is 0 whatever it holds


def schedule_does_not_matter(
    make: Callable[[], ModelSession],
    text: Sequence[int],
    prompt: int,
    schedule: list[ScheduledPass],
    tolerance: float = TOLERANCE,
) -> int:
    """Any accepted counts, with any rejected branches beside them, give the logits, positions, keys
    and values of decoding one token at a time; unused rows may hold anything.

    `make` opens a new session; the first `prompt` tokens of `text` are the prompt. Returns how many
    rows were evicted: if none, nothing was tested.
    """
    wanted, logits = one_by_one(make(), text, prompt)
    session = make()
    session.prefill([*text[:prompt]])
    require_same_rows(snapshot(session.cache), wanted[prompt], "after the prompt", tolerance)
    for step in schedule:
        length = session.length
        left = len(text) - length - 1
        if left < 0:
            break
        accepted = min(step.accepted, session.max_draft_depth, left)
        tokens, parents, path = grow_path(text[length : length + accepted + 1], step.wrong)
        poison(session.cache)
        got = session.forward(tokens, parents)[path]
        session.commit(path)
        where = f"at length {session.length}, {accepted} accepted from {length}"
        expected = logits[length - prompt : length - prompt + len(path)]
        require_same_rows(snapshot(session.cache), wanted[session.length], where, tolerance)
        require_close(got, expected, f"logits {where}", tolerance)
    return session.cache.evicted


def one_by_one(
    session: ModelSession, text: Sequence[int], prompt: int
) -> tuple[dict[int, Snapshot], Tensor]:
    """AR over a text: the cache at every length, and the logits after each token past the prompt."""
    session.prefill([*text[:prompt]])
    held, logits = {session.length: snapshot(session.cache)}, []
    for token in text[prompt:]:
        logits.append(session.forward([token], [-1])[0])
        session.commit([0])
        held[session.length] = snapshot(session.cache)
    return held, torch.stack(logits)


def grow_path(
    path: Sequence[int], wrong: tuple[tuple[int, int], ...]
) -> tuple[list[int], list[int], list[int]]:
    """Tokens and parents of a tree with wrong nodes among those of `path`, and the rows of `path`."""
    tokens, parents, rows, beside = [path[0]], [-1], [0], list(wrong)
    for token in path[1:]:
        for parent, other in beside[:2]:
            parents.append(parent % len(tokens))
            tokens.append(other)
        beside = beside[2:]
        parents.append(rows[-1])
        rows.append(len(tokens))
        tokens.append(token)
    for parent, other in beside:
        parents.append(parent % len(tokens))
        tokens.append(other)
    return tokens, parents, rows


def poison(cache: TreeCache) -> None:
    """Fill every row that must not be read with large numbers."""
    for layer in cache.initialized:
        unused = torch.ones(layer.keys.shape[1], layer.keys.shape[2], dtype=torch.bool)
        unused[:, : layer.table.count] = layer.table.positions[layer.heads] < 0
        layer.keys[0, unused] = POISON
        layer.values[0, unused] = POISON


def protected_rows_stay(session: ModelSession, text: Sequence[int], prompt: int) -> int:
    """After every decision each head holds as many of the positions decided on as its capacity allows,
    sinks and recent positions among them. Returns how many rows were evicted."""
    policy = session.policy
    assert isinstance(policy, ScorePolicy)  # noqa: S101 the property binds no other
    capacities: dict[tuple[int, int], list[int]] = {}  # of the heads, by layer and decision

    def capacity(policy: ScorePolicy, view: KVView) -> int | Tensor:
        found = honest(policy, view)
        capacities[view.layer, view.now] = (
            torch.as_tensor(found).expand(len(view.positions)).tolist()
        )
        return found

    honest = selection.capacity_of
    with patch.object(selection, "capacity_of", capacity):
        held, _ = one_by_one(session, text, prompt)
    for length, rows in held.items():
        decided = decision_in_force(policy, prompt, length)
        for layer, (positions, _, _) in zip(session.cache.layers, rows, strict=True):
            if layer.scored:
                for head, row in enumerate(positions.tolist()):
                    where = f"layer {layer.index}, head {head}, at length {length}: {row}"
                    old = [p for p in row if 0 <= p < decided]
                    _within(policy, old, decided, capacities[layer.index, decided][head], where)
    return session.cache.evicted


def decision_in_force(policy: ScorePolicy, prompt: int, length: int) -> int:
    """The length at which the decision in force at `length` was made."""
    epochs = 0 if policy.once else (length - prompt) // policy.epoch
    return prompt + max(0, epochs - 1) * policy.epoch


def _within(policy: ScorePolicy, held: list[int], decided: int, capacity: int, where: str) -> None:
    if len(held) > capacity:
        raise Broken(f"{len(held)} positions, capacity {capacity}, {where}")
    if type(policy).capacity is ScorePolicy.capacity and len(held) < min(capacity, decided):
        raise Broken(f"only {len(held)} positions, capacity {capacity}, {where}")
    recent = range(max(0, decided - policy.recent), decided)
    protected = {*range(min(policy.sinks, decided)), *recent}
    if len(protected) <= capacity and not protected <= set(held):
        raise Broken(f"{sorted(protected - set(held))} are protected, but evicted, {where}")
