"""Speculative decoding of Hugging Face language models, in interchangeable and exact parts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.cascade_interfaces import Evidence as Evidence
    from toolkit.cascade_interfaces import Outcomes as Outcomes
    from toolkit.cascade_interfaces import Scorer as Scorer
    from toolkit.cascade_interfaces import StopPolicy as StopPolicy
    from toolkit.chat import Chat as Chat
    from toolkit.choice import Choice as Choice
    from toolkit.choice import Strategy as Strategy
    from toolkit.choice import format_value as format_value
    from toolkit.choice import options_of as options_of
    from toolkit.columns import column as column
    from toolkit.columns import schema as schema
    from toolkit.costs import Costs as Costs
    from toolkit.draft_session import DraftSession as DraftSession
    from toolkit.drop_in import speculative as speculative
    from toolkit.engine import Event as Event
    from toolkit.engine import Step as Step
    from toolkit.errors import ToolkitError as ToolkitError
    from toolkit.exactness import verify as verify
    from toolkit.files import open_atomically as open_atomically
    from toolkit.generation import Generation as Generation
    from toolkit.growmap import GrowMap as GrowMap
    from toolkit.hookspecs import Conversation as Conversation
    from toolkit.hookspecs import Dataset as Dataset
    from toolkit.hookspecs import Family as Family
    from toolkit.hookspecs import Source as Source
    from toolkit.hookspecs import hookimpl as hookimpl
    from toolkit.interfaces import Drafter as Drafter
    from toolkit.interfaces import Expand as Expand
    from toolkit.interfaces import KVPolicy as KVPolicy
    from toolkit.interfaces import MaskPolicy as MaskPolicy
    from toolkit.interfaces import Runtime as Runtime
    from toolkit.interfaces import ScorePolicy as ScorePolicy
    from toolkit.interfaces import Session as Session
    from toolkit.interfaces import Translation as Translation
    from toolkit.interfaces import TreeShaper as TreeShaper
    from toolkit.interfaces import Verifier as Verifier
    from toolkit.interfaces import option as option
    from toolkit.kv_view import KVView as KVView
    from toolkit.limits import Limits as Limits
    from toolkit.nodes import Node as Node
    from toolkit.pipeline import Pipeline as Pipeline
    from toolkit.plugins import strategies_in as strategies_in
    from toolkit.prompts import encode_messages as encode_messages
    from toolkit.prompts import is_chat_model as is_chat_model
    from toolkit.records import Request as Request
    from toolkit.records import Run as Run
    from toolkit.records import StepKey as StepKey
    from toolkit.records import node_rows as node_rows
    from toolkit.records import request_record as request_record
    from toolkit.records import run_record as run_record
    from toolkit.records import step_rows as step_rows
    from toolkit.records import write_part as write_part
    from toolkit.registry import Registry as Registry
    from toolkit.runtime.models.pool import Pool as Pool
    from toolkit.runtime.models.quiet import quiet as quiet
    from toolkit.sampling import Sampler as Sampler
    from toolkit.sampling import Sampling as Sampling
    from toolkit.scoring import TeacherForced as TeacherForced
    from toolkit.scoring import teacher_force as teacher_force
    from toolkit.translated_draft import TranslatedDraft as TranslatedDraft
    from toolkit.tree import Candidates as Candidates
    from toolkit.tree import TokenTree as TokenTree
    from toolkit.tree import Verdict as Verdict
    from toolkit.trust import Trust as Trust

_HOMES = {
    "Evidence": "cascade_interfaces",
    "Outcomes": "cascade_interfaces",
    "Scorer": "cascade_interfaces",
    "StopPolicy": "cascade_interfaces",
    "Candidates": "tree",
    "Chat": "chat",
    "Choice": "choice",
    "Conversation": "hookspecs",
    "Dataset": "hookspecs",
    "Costs": "costs",
    "DraftSession": "draft_session",
    "Drafter": "interfaces",
    "Event": "engine",
    "Expand": "interfaces",
    "Family": "hookspecs",
    "Generation": "generation",
    "GrowMap": "growmap",
    "KVPolicy": "interfaces",
    "KVView": "kv_view",
    "Limits": "limits",
    "MaskPolicy": "interfaces",
    "Node": "nodes",
    "Pipeline": "pipeline",
    "Pool": "runtime.models.pool",
    "Registry": "registry",
    "Request": "records",
    "Run": "records",
    "Runtime": "interfaces",
    "Sampler": "sampling",
    "Sampling": "sampling",
    "ScorePolicy": "interfaces",
    "Session": "interfaces",
    "Source": "hookspecs",
    "Step": "engine",
    "StepKey": "records",
    "Strategy": "choice",
    "TeacherForced": "scoring",
    "TokenTree": "tree",
    "ToolkitError": "errors",
    "TranslatedDraft": "translated_draft",
    "Translation": "interfaces",
    "TreeShaper": "interfaces",
    "Trust": "trust",
    "Verdict": "tree",
    "Verifier": "interfaces",
    "column": "columns",
    "encode_messages": "prompts",
    "is_chat_model": "prompts",
    "hookimpl": "hookspecs",
    "node_rows": "records",
    "open_atomically": "files",
    "option": "interfaces",
    "format_value": "choice",
    "options_of": "choice",
    "quiet": "runtime.models.quiet",
    "request_record": "records",
    "run_record": "records",
    "schema": "columns",
    "step_rows": "records",
    "strategies_in": "plugins",
    "speculative": "drop_in",
    "teacher_force": "scoring",
    "verify": "exactness",
    "write_part": "records",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `toolkit --help` imports none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    return getattr(import_module(f"toolkit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
