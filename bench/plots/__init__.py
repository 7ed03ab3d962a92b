"""Figures: one figure, one file, drawn from the Parquet alone."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def list_figures() -> list[ModuleType]:
    """Every figure: a module with `TITLE`, `CAPTION`, `ORDER` and `draw(results, theme)`, which returns
    None when the results lack the data for it."""
    modules = [import_module(info.name) for info in iter_modules(__path__, __name__ + ".")]
    return sorted(modules, key=lambda module: module.ORDER)
