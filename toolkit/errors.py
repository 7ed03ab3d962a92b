"""Errors for users. Each message says in one sentence what is wrong and what to do next."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

NOT_THEIRS = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<frozen")
LIBRARIES = "site-packages"


class ToolkitError(Exception):
    """An error whose message is for the user. Commands print it without a traceback."""


class SpecError(ToolkitError):
    """A spec string that names no strategy, or an option that the strategy does not take."""


class PluginError(ToolkitError):
    """A plugin that does not load, or that claims a name already taken."""


class MismatchError(ToolkitError):
    """Strategies, models or prompts that are each valid but do not fit together."""


class ModelError(ToolkitError):
    """A model that is not found, not reachable, or not supported."""


class NoMemoryError(ModelError):
    """A device without memory for a model's weights, or for what a request does with them."""


class StrategyError(ToolkitError):
    """A strategy that raised an exception, or broke a rule of its interface, while decoding."""


def format_trace(error: BaseException, module: str) -> str:
    """Format a traceback with only the frames of the author's own `module`.

    Frames of the toolkit, Python and other libraries are left out; if no other frame is left, the last
    one stays.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _theirs(frame.filename, module)] or frames[-1:]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()


def _theirs(file: str, module: str) -> bool:
    _, inside, rest = file.rpartition(f"{LIBRARIES}/")
    if inside:
        return Path(rest).parts[0].removesuffix(".py") == module.partition(".")[0]
    return not file.startswith(NOT_THEIRS)
