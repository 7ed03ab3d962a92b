"""User errors. One shape: what was wrong, what was expected, what to do next, in one sentence."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

NOT_THEIRS = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<frozen")
LIBRARIES = "site-packages"


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


def trace(error: BaseException, module: str) -> str:
    """A traceback cut to the frames of an author's own `module`: without ours, Python's and other
    libraries'. Where none is left, the last one stays."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _theirs(frame.filename, module)] or frames[-1:]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()


def _theirs(file: str, module: str) -> bool:
    _, inside, rest = file.rpartition(f"{LIBRARIES}/")
    if inside:
        return Path(rest).parts[0].removesuffix(".py") == module.partition(".")[0]
    return not file.startswith(NOT_THEIRS)
