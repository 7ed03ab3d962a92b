"""Decoder layers, one file per family, for the functional executor.

Each file names the model types that it describes in `MODEL_TYPES`, and its `describe` makes a `Decoder`
of a loaded module. A new file is found by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from toolkit.runtime.compute.layers.decoder import Decoder
    from toolkit.runtime.compute.linears.linears import Linears

Describe: TypeAlias = "Callable[[Any, tuple[int | None, ...], Linears], Decoder]"
"""A loaded module, the sliding window of each layer, and what makes its linears → a decoder."""


@cache
def descriptions() -> dict[str, Describe]:
    """`describe` by model type, as a config's `model_type` names it."""
    files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    return {kind: file.describe for file in files for kind in getattr(file, "MODEL_TYPES", ())}
