"""Data sets: one set, one file, which says `DATASET = Dataset(…)`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from toolkit import Dataset, hookimpl


@hookimpl
def datasets() -> Iterable[Dataset]:
    """Every data set in this folder: a new one is one new file."""
    modules = (import_module(info.name) for info in iter_modules(__path__, __name__ + "."))
    return [module.DATASET for module in modules]
