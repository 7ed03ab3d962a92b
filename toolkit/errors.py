"""User errors. One shape: what was wrong, what was expected, what to do next, in one sentence."""

from __future__ import annotations


class ToolkitError(Exception):
    """An error whose message is for the user; commands print it without a traceback."""


class SpecError(ToolkitError):
    """A spec string that names no strategy, or an option that the strategy does not take."""


class PluginError(ToolkitError):
    """A plugin that does not load, or that claims a name already taken."""


class MismatchError(ToolkitError):
    """Parts that are each fine and do not fit together."""


class ModelError(ToolkitError):
    """A model that is not here, not reachable, or cannot be decoded by trees."""


class StrategyError(ToolkitError):
    """A strategy broke its own declaration while decoding."""
