"""What a plugin may provide: the hooks, the marker for implementing them, and the rows they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import pluggy
from attrs import field, frozen

if TYPE_CHECKING:
    from toolkit.choice import Strategy

hookspec = pluggy.HookspecMarker("toolkit")
hookimpl = pluggy.HookimplMarker("toolkit")

Conversation = Sequence[str]
"""A person's turns, first to last; most sets have one."""


@hookspec
def strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """The strategy classes that this plugin provides."""


@hookspec
def families() -> Iterable[Family]:  # type: ignore[empty-body]
    """The model families that this plugin knows."""


@hookspec
def datasets() -> Iterable[Dataset]:  # type: ignore[empty-body]
    """The named data sets that this plugin brings to the bench."""


@frozen
class Family:
    """Models that share a tokenizer. `target` and `drafter` are aliases among `models`.

    `models` maps each alias to a hub id, or to `package:FOLDER` for a model that ships. Raises
    `ValueError` when `target` or `drafter` is not among them.
    """

    name: str
    target: str
    drafter: str
    models: dict[str, str]

    def __attrs_post_init__(self) -> None:
        if not {self.target, self.drafter} <= set(self.models):
            raise ValueError(f"family {self.name!r}: target and drafter must be among its models")


@frozen
class Source:
    """A loaded data set: its conversations in their own order, and its revision.

    `revision` is the hub commit, or the sha256 of the file. `references` are what the set's grader
    compares answers with, one for each conversation; empty where answers cannot be graded.
    """

    conversations: Sequence[Conversation] = field(repr=False)
    revision: str
    references: Sequence[str] = field(default=(), repr=False)


@frozen
class Dataset:
    """A data set by name, with one line of `help`.

    `load(location)` reads it. `location` is a file or folder of its rows, such as a mirror or a
    download, or None for the usual place. `load` raises `ToolkitError` when the set is not there; the
    message says how to get it. `chat` says that the prompts are questions to an assistant: they are
    put into the target's chat template where it has one. `grader` names how answers are graded;
    "": they are not.
    """

    name: str
    help: str
    load: Callable[[str | None], Source] = field(repr=False)
    chat: bool = False
    grader: str = ""
