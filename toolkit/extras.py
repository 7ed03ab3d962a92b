"""Optional dependencies: when one is missing, the error names the extra that installs it."""

from __future__ import annotations

from importlib.util import find_spec

from toolkit.errors import ToolkitError


def require_extra(what: str, extra: str, *modules: str) -> None:
    """Raise `ToolkitError` when one of the modules that `what` needs is not installed.

    It imports nothing, so that a command can ask before it does any work.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ToolkitError(
            f"{what} needs {' and '.join(missing)}: pip install 'speculative-toolkit[{extra}]'"
        )
