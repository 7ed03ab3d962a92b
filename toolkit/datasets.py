"""What the bench knows of a data set: its name, how its rows become prompts, where they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import field, frozen

Conversation = Sequence[str]
"""A person's turns, first to last; most sets have one."""


@frozen
class Source:
    """A data set that was loaded: its conversations in their own order, and what they were."""

    conversations: Sequence[Conversation] = field(repr=False)
    revision: str  # hub commit, or sha256 of the file


@frozen
class Dataset:
    """A data set by name.

    `load(location)` reads it; `location` is a file or folder of its rows that a person has (a
    mirror, a download), or None for its usual place. It raises `ToolkitError`, saying how to get
    the set, when it is not there. `chat` says that the prompts are questions to an assistant: they
    are put into the target's chat template where it has one.
    """

    name: str
    help: str  # one line
    load: Callable[[str | None], Source] = field(repr=False)
    chat: bool = False
