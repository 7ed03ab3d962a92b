"""Drafters, shapers and verifiers: one strategy, one file, named as on the command line."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Strategy, hookimpl, strategies_in


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Every class in the three folders: a new strategy is one new file."""
    return strategies_in(__name__)
