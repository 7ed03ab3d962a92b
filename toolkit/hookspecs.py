"""The hooks a plugin may implement, and the marker it does so with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from toolkit.datasets import Dataset
    from toolkit.families import Family
    from toolkit.interfaces import Strategy

hookspec = pluggy.HookspecMarker("toolkit")
hookimpl = pluggy.HookimplMarker("toolkit")


@hookspec
def strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """The strategy classes that this plugin provides."""


@hookspec
def families() -> Iterable[Family]:  # type: ignore[empty-body]
    """The model families (aliases, usual target, usual drafter) that this plugin knows."""


@hookspec
def datasets() -> Iterable[Dataset]:  # type: ignore[empty-body]
    """The named data sets that this plugin brings to the bench."""
