"""Cascades: answer with a small model where that is good enough, with a larger one otherwise.

Scorers and stop policies are strategies: one strategy, one file, named as on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Strategy, hookimpl, strategies_in


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Every scorer and policy of this folder."""
    return [*strategies_in(f"{__name__}.scorers"), *strategies_in(f"{__name__}.policies")]
