"""Spec strings such as "adaptive:nodes=64", parsed into a `Choice`.

spec   = name [":" option ("," option)*]
option = key "=" value | value        a bare first value is the first option's
value  = scalar | 4x2x1 | "[" spec "]" | "[" spec "]" "+" "[" spec "]" …

The types of options are those of the class's attrs fields.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

import attrs
import cattrs

from toolkit.choice import Choice, Strategy, format_value, options_of
from toolkit.errors import SpecError, ToolkitError, format_trace
from toolkit.words import parse_real, parse_whole, quote, shorten


def parse(
    kind: str,
    text: str,
    find: Callable[[str, str], type[Strategy]],
    resolve: Callable[[str, str], Choice[Any]] | None = None,
) -> Choice[Any]:
    """Parse a spec string. `find(kind, name)` returns the class; `resolve(kind, spec)` parses a nested
    spec, by default as this one.

    Raises `SpecError` for an unknown name or option, or a value that the option does not take.
    """
    nested = resolve or (lambda inner, spec: parse(inner, spec, find))
    name, colon, rest = text.partition(":")
    cls = find(kind, name)
    fields = {f.name: f for f in options_of(cls)}
    given: dict[str, Any] = {}
    for index, part in enumerate(_split(rest, text) if colon else []):
        key, equals, raw = part.partition("=")
        if (not equals or "[" in key) and index == 0 and fields:
            key, raw = next(iter(fields)), part
        if key not in fields:
            known = ", ".join(describe(f) for f in fields.values()) or "none"
            raise SpecError(f"{kind} {name!r} has no option {quote(key)}; it has: {known}")
        if key in given:
            raise SpecError(f"{kind} {name!r}: option {key!r} is given twice, write it once")
        given[key] = _value(kind, name, fields[key], raw, nested)
    choice = Choice(cls, tuple(given.items()))
    require_valid(kind, choice)
    return choice


def require_valid(kind: str, choice: Choice[Any]) -> None:
    """Raise `SpecError` when an option is missing or the strategy's validators reject a value."""
    fields, given = options_of(choice.cls), dict(choice.options)
    missing = [f.name for f in fields if f.default is attrs.NOTHING and f.name not in given]
    if missing:
        wanted = ",".join(f"{key}=…" for key in missing)
        raise SpecError(
            f"{kind} {quote(str(choice))} needs {', '.join(missing)}: write {choice.cls.name}:{wanted}"
        )
    try:
        choice.build()
    except (TypeError, ValueError, OverflowError, ToolkitError) as error:
        said = str(error.args[0]) if error.args else type(error).__name__  # attrs adds arguments
        raise SpecError(f"{kind} {quote(str(choice))}: {shorten(said)}") from error
    except Exception as error:
        frames = format_trace(error, choice.cls.__module__)
        raise SpecError(f"{kind} {quote(str(choice))} cannot be built:\n{frames}") from error


def describe(field: attrs.Attribute[Any]) -> str:
    """An option as messages and help show it: `name (type, default 4)`."""
    if field.default is attrs.NOTHING:
        return f"{field.name} ({type_name(field)}, required)"
    absent = "chosen for you" if field.metadata.get("model") else "none"
    return f"{field.name} ({type_name(field)}, default {format_value(field.default) or absent})"


def type_name(field: attrs.Attribute[Any]) -> str:
    """An option's type in the user's words."""
    if field.metadata.get("kind"):
        several = f"{field.metadata['kind']}s as [spec]+[spec]"
        return several if _is_tuple(field) else f"a {field.metadata['kind']} as [spec]"
    if field.metadata.get("model"):
        return "model"
    if _is_tuple(field):
        return "integers joined by x, as 4x2x1"
    return {int: "int", float: "float", bool: "true or false", str: "text"}.get(
        _bare(field.type), str(field.type)
    )


def _is_tuple(field: attrs.Attribute[Any]) -> bool:
    return get_origin(field.type) is tuple


def _split(text: str, spec: str, sign: str = ",") -> list[str]:
    """Split at `sign` outside brackets. Raises `SpecError` for unmatched brackets in `spec`."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if depth < 0:
            break
        if char == sign and not depth:
            parts.append("")
        else:
            parts[-1] += char
    if depth:
        raise SpecError(f"the brackets of {quote(spec)} do not match: close every [ with a ]")
    return parts


def _value(
    kind: str,
    name: str,
    field: attrs.Attribute[Any],
    raw: str,
    nested: Callable[[str, str], Choice[Any]],
) -> Any:
    if inner := field.metadata.get("kind"):
        parts = [nested(inner, _bare_of(part)) for part in _split(raw, raw, "+")]
        return tuple(parts) if _is_tuple(field) else parts[0]
    try:
        wanted: Any = field.type
        return _converter.structure(_bare_of(raw), wanted)
    except Exception as error:
        raise SpecError(
            f"{kind} {name!r}: option {field.name!r} takes {type_name(field)}, got {quote(raw)}"
        ) from error


def _bare_of(raw: str) -> str:
    """A value without its brackets."""
    return raw[1:-1] if raw.startswith("[") and raw.endswith("]") else raw


def _bare(kind: Any) -> Any:
    """Return `int` for `int | None`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(arg for arg in get_args(kind) if arg is not type(None))
    return kind


def _int(text: str, _: Any) -> int:
    value = parse_whole(text)
    if abs(value) >= 2**31:
        raise ValueError("no option takes so large a number")
    return value


def _bool(text: str, _: Any) -> bool:
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[
        text.lower()
    ]


_converter = cattrs.Converter()
_converter.register_structure_hook(int, _int)
_converter.register_structure_hook(float, lambda text, _: parse_real(text))
_converter.register_structure_hook(bool, _bool)
_converter.register_structure_hook_func(
    lambda kind: str(kind).startswith("tuple["),
    lambda text, _: tuple(_int(part, int) for part in text.split("x")),
)
