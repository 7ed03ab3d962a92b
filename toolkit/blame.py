"""Whose error is it? What a strategy's method raises, as an error that names strategy and method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from toolkit.choice import Strategy
from toolkit.errors import StrategyError, ToolkitError, trace

OURS = "toolkit."


@contextmanager
def blaming() -> Iterator[None]:
    """Turn what a plugin's strategy raises within the block into a `StrategyError`, with the author's
    own part of the traceback. An error of ours stays what it is."""
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        found = _culprit(error)
        if found is None:
            raise
        strategy, method = found
        raise StrategyError(
            f"{title(strategy)} failed in `{method}`:\n{trace(error, type(strategy).__module__)}"
        ) from error


def require_type(answer: object, wanted: type, strategy: Strategy, method: str) -> None:
    """Raise `StrategyError` for an answer that is something else."""
    if not isinstance(answer, wanted):
        got = "nothing" if answer is None else f"a {type(answer).__name__}"
        raise StrategyError(
            f"{title(strategy)} returned {got} from `{method}`: return a {wanted.__name__}"
        )


def title(strategy: Strategy) -> str:
    """A strategy's kind and name, as messages say them."""
    return f"{'KV policy' if strategy.kind == 'kv' else strategy.kind} {strategy.name!r}"


def _culprit(error: BaseException) -> tuple[Strategy, str] | None:
    """The plugin's strategy that was asked last, and which method; None where a built-in was."""
    calls: list[tuple[Strategy, str]] = []
    for frame, _ in walk_tb(error.__traceback__):
        code = frame.f_code
        strategy = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if not isinstance(strategy, Strategy) or not hasattr(type(strategy), code.co_name):
            continue
        if not calls or calls[-1][0] is not strategy:
            calls.append((strategy, code.co_name))
    if not calls or type(calls[-1][0]).__module__.startswith(OURS):
        return None
    return calls[-1]
