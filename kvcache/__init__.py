"""KV policies, which cached positions stay visible: one policy, one file."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Strategy, hookimpl, strategies_in


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Every class in this folder: a new policy is one new file."""
    return strategies_in(__name__)
