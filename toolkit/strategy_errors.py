"""Turn an exception in a plugin's strategy into a `StrategyError` that names strategy and method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from toolkit.choice import Strategy
from toolkit.errors import StrategyError, ToolkitError, format_trace

BUILT_IN = "toolkit."


@contextmanager
def name_failed_strategy() -> Iterator[None]:
    """Turn an exception that a plugin's strategy raises in the block into a `StrategyError`.

    Its message has the author's own part of the traceback. Errors of the toolkit stay as they are.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        found = find_failed_method(error)
        if found is None:
            raise
        strategy, method = found
        frames = format_trace(error, type(strategy).__module__)
        raise StrategyError(f"{describe(strategy)} failed in `{method}`:\n{frames}") from error


def require_type(answer: object, wanted: type, strategy: Strategy, method: str) -> None:
    """Raise `StrategyError` when a method's answer has another type."""
    if not isinstance(answer, wanted):
        got = "nothing" if answer is None else f"a {type(answer).__name__}"
        raise StrategyError(
            f"{describe(strategy)} returned {got} from `{method}`: return a {wanted.__name__}"
        )


def describe(strategy: Strategy) -> str:
    """A strategy's kind and name for messages, as in "shaper 'chain'"."""
    return f"{'KV policy' if strategy.kind == 'kv' else strategy.kind} {strategy.name!r}"


def find_failed_method(error: BaseException) -> tuple[Strategy, str] | None:
    """The last strategy on the stack of an exception and its method; None if it is a built-in."""
    calls: list[tuple[Strategy, str]] = []
    for frame, _ in walk_tb(error.__traceback__):
        code = frame.f_code
        strategy = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if not isinstance(strategy, Strategy) or not hasattr(type(strategy), code.co_name):
            continue
        if not calls or calls[-1][0] is not strategy:
            calls.append((strategy, code.co_name))
    if not calls or type(calls[-1][0]).__module__.startswith(BUILT_IN):
        return None
    return calls[-1]
