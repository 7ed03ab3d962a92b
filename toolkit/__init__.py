"""Speculative decoding of Hugging Face language models, in interchangeable and exact parts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.costs import Costs as Costs
    from toolkit.engine import Event as Event
    from toolkit.engine import Step as Step
    from toolkit.errors import ToolkitError as ToolkitError
    from toolkit.exactness import verify as verify
    from toolkit.families import Family as Family
    from toolkit.generation import Generation as Generation
    from toolkit.hookspecs import hookimpl as hookimpl
    from toolkit.interfaces import Drafter as Drafter
    from toolkit.interfaces import Expand as Expand
    from toolkit.interfaces import KVPolicy as KVPolicy
    from toolkit.interfaces import Runtime as Runtime
    from toolkit.interfaces import Session as Session
    from toolkit.interfaces import Strategy as Strategy
    from toolkit.interfaces import TreeShaper as TreeShaper
    from toolkit.interfaces import Verifier as Verifier
    from toolkit.interfaces import option as option
    from toolkit.pipeline import Pipeline as Pipeline
    from toolkit.registry import Registry as Registry
    from toolkit.runtime.pool import Pool as Pool
    from toolkit.spec import Choice as Choice
    from toolkit.tree import Candidates as Candidates
    from toolkit.tree import TokenTree as TokenTree
    from toolkit.tree import Verdict as Verdict
    from toolkit.view import KVView as KVView

_HOMES = {
    "Candidates": "tree",
    "Choice": "spec",
    "Costs": "costs",
    "Drafter": "interfaces",
    "Event": "engine",
    "Expand": "interfaces",
    "Family": "families",
    "Generation": "generation",
    "KVPolicy": "interfaces",
    "KVView": "view",
    "Pipeline": "pipeline",
    "Pool": "runtime.pool",
    "Registry": "registry",
    "Runtime": "interfaces",
    "Session": "interfaces",
    "Step": "engine",
    "Strategy": "interfaces",
    "TokenTree": "tree",
    "ToolkitError": "errors",
    "TreeShaper": "interfaces",
    "Verdict": "tree",
    "Verifier": "interfaces",
    "hookimpl": "hookspecs",
    "option": "interfaces",
    "verify": "exactness",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: `toolkit --help` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    return getattr(import_module(f"toolkit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
