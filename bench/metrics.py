"""What the bench derives from a request beyond `toolkit.Generation`: one definition each."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit import Step


def distinct_3grams(tokens: Sequence[int]) -> float | None:
    """Different runs of three tokens over all runs of three: 1 never repeats, near 0 is a loop."""
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(grams)) / len(grams) if grams else None


def path_length(steps: Sequence[Step]) -> float | None:
    """Drafted tokens accepted per target forward: τ without the bonus."""
    return sum(step.accepted for step in steps) / len(steps) if steps else None


def by_depth(steps: Sequence[Step]) -> tuple[list[int], list[int]]:
    """For every depth from 1: in how many steps a tree reached it, and in how many a drafted token
    was accepted there."""
    deepest = max((step.depth for step in steps), default=0)
    depths = range(1, deepest + 1)
    reached = [sum(step.depth >= depth for step in steps) for depth in depths]
    accepted = [sum(step.accepted >= depth for step in steps) for depth in depths]
    return reached, accepted
