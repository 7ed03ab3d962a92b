"""Drafters, shapers and verifiers: one strategy, one file, named as on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pkgutil import iter_modules

from toolkit import Strategy, hookimpl

from . import drafters, shapers, verifiers


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Whatever lies in the three folders: a new strategy is one new file."""
    return list(_walk())


def _walk() -> Iterator[type[Strategy]]:
    for package in (drafters, shapers, verifiers):
        for info in iter_modules(package.__path__, package.__name__ + "."):
            members = vars(import_module(info.name)).values()
            yield from (
                m
                for m in members
                if getattr(m, "__module__", "") == info.name
                and isinstance(m, type)
                and issubclass(m, Strategy)
            )
