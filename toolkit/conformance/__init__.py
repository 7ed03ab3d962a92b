"""The conformance kit: properties that every strategy must have, and the tests of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolkit.extras import require_extra

require_extra("the conformance kit", "testing", "hypothesis")

if TYPE_CHECKING:
    from toolkit.conformance.kit import Finding as Finding
    from toolkit.conformance.kit import check as check
    from toolkit.conformance.kit import conforms as conforms

__all__ = ["Finding", "check", "conforms"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, as `toolkit` does."""
    if name not in __all__:
        raise AttributeError(f"module 'toolkit.conformance' has no attribute {name!r}")
    return getattr(import_module("toolkit.conformance.kit"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
