"""Documented columns: attrs classes as Arrow schemas, each field with its line of help."""

from __future__ import annotations

import types
from datetime import datetime
from typing import Any, Union, get_args, get_origin

import attrs
import pyarrow as pa
from attrs import field


def column(text: str) -> Any:
    """A field of a record class, with a line of help that is stored in the Parquet schema, too."""
    return field(metadata={"help": text})


def schema(*classes: type[Any]) -> pa.Schema:
    """The Arrow schema of the fields of record classes, in this order, with their help."""
    fields = [f for cls in classes for f in attrs.fields(attrs.resolve_types(cls))]
    return pa.schema(
        {
            f.name: pa.field(f.name, *_arrow(f.type), metadata={"help": f.metadata["help"]})
            for f in fields
        }.values()
    )


def _arrow(kind: Any) -> tuple[pa.DataType, bool]:
    """Arrow type and nullability of a Python type."""
    if get_origin(kind) in (Union, types.UnionType):
        return _arrow(next(a for a in get_args(kind) if a is not type(None)))[0], True
    plain = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        datetime: pa.timestamp("us"),
    }
    if kind in plain:
        return plain[kind], False
    if get_origin(kind) is list:
        return pa.list_(_arrow(get_args(kind)[0])[0]), False
    return pa.string(), False  # a Literal of strings
