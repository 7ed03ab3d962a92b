"""KV policies, which cached positions stay visible: one policy, one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pkgutil import iter_modules

from toolkit import Strategy, hookimpl


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Whatever lies in this folder: a new policy is one new file."""
    return list(_walk())


def _walk() -> Iterator[type[Strategy]]:
    for info in iter_modules(__path__, __name__ + "."):
        members = vars(import_module(info.name)).values()
        yield from (
            m
            for m in members
            if getattr(m, "__module__", "") == info.name
            and isinstance(m, type)
            and issubclass(m, Strategy)
        )
