"""Properties of a KV policy with a mask over positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolkit.choice import options_of
from toolkit.conformance.comparison import Broken, require_close
from toolkit.conformance.tree_paths import tokens_to
from toolkit.interfaces import MaskPolicy, Session
from toolkit.tree import TokenTree

Forward = Callable[[list[int]], Tensor]  # token ids → logits [T, V], without a cache


def node_sees_its_path(session: Session, tree: TokenTree, prefix: list[int], full: Forward) -> None:
    """The logits of a node are those of its path alone: its position is its depth, and its siblings are
    not visible."""
    logits = session.forward(tree.tokens, tree.parents)
    for node in range(len(tree)):
        alone = full(prefix + tokens_to(tree, node))[-1]
        require_close(logits[node], alone, f"node {node} of {tree.parents}")


def visible_by_position_alone(make: Callable[[], MaskPolicy], queries: Tensor, keys: Tensor) -> int:
    """Whether a key is visible depends only on its position and the query's, not on other queries and
    keys or on earlier calls; returns how many keys are hidden."""
    used = make()
    table = used.visible(queries[:, None], keys[None, :])
    if table.dtype != torch.bool or table.shape != (len(queries), len(keys)):
        raise Broken(
            f"visible returned {table.dtype} of shape {[*table.shape]}; expected torch.bool of shape "
            f"{[len(queries), len(keys)]} for {len(queries)} queries and {len(keys)} keys"
        )
    for row, query in enumerate(queries.tolist()):
        for column, key in enumerate(keys.tolist()):
            alone = bool(make().visible(torch.tensor([[query]]), torch.tensor([[key]])))
            if alone != bool(table[row, column]) and key < query:
                raise Broken(
                    f"position {query} {'sees' if alone else 'does not see'} {key} when asked alone, "
                    f"but not with queries {queries.tolist()} and keys {keys.tolist()}"
                )
    again = used.visible(queries[:, None], keys[None, :])
    if not torch.equal(again, table):
        raise Broken(f"two equal calls gave different answers: queries {queries.tolist()}")
    return int((~table & (keys[None, :] < queries[:, None])).sum())


def sees_at_most_its_budget(policy: MaskPolicy, length: int) -> int:
    """A query sees at most `budget` positions, its own included; returns how many pairs are
    hidden."""
    visible, past = _table(policy, length)
    budget = budget_of(policy)
    worst = int(visible.sum(1).argmax())
    if budget is not None and int(visible[worst].sum()) > budget:
        raise Broken(
            f"position {worst} sees {int(visible[worst].sum())} positions; budget is {budget}"
        )
    return int((past & ~visible).sum())


def hidden_stays_hidden(policy: MaskPolicy, length: int) -> int:
    """A position that is hidden from one query stays hidden from all later ones, because its row may
    be freed; returns how many pairs are hidden."""
    visible, past = _table(policy, length)
    again = past & visible & ((past & ~visible).cumsum(0) > 0)
    again &= ~torch.eye(length, dtype=torch.bool)
    if bool(again.any()):
        query, key = again.nonzero()[0].tolist()
        raise Broken(f"position {query} sees {key}, which was hidden from an earlier position")
    return int((past & ~visible).sum())


def hidden_pairs(policy: MaskPolicy, length: int) -> int:
    """Count the (query, earlier key) pairs that are hidden among the first `length` positions."""
    visible, past = _table(policy, length)
    return int((past & ~visible).sum())


def _table(policy: MaskPolicy, length: int) -> tuple[Tensor, Tensor]:
    """What each of the first positions sees, and what precedes it: bool [length, length] each."""
    positions = torch.arange(length)
    past = positions[None, :] <= positions[:, None]
    visible = policy.visible(positions[:, None], positions[None, :])
    return (visible | torch.eye(length, dtype=torch.bool)) & past, past


def budget_of(policy: MaskPolicy) -> int | None:
    """The option `budget` of a policy, or None."""
    named = any(f.name == "budget" for f in options_of(type(policy)))
    return getattr(policy, "budget", None) if named else None
