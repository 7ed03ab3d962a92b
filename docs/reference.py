"""Writes the generated parts of docs/ from the code: `make docs`. House tests compare.

In plugins.md these are marked. In strategies.md and data.md they are the rows of tables.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
from toolkit.bench.columns import ArmColumns, SampleColumns
from toolkit.cascade.answers import Answer

import toolkit
from toolkit import Registry, conformance, schema
from toolkit.choice import format_value, options_of
from toolkit.conformance.catalogue import PROPERTIES
from toolkit.plugins import OURS
from toolkit.records import TABLES
from toolkit.spec import type_name

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from saboteurs import GALLERY

DOCS = Path(__file__).parent
INTERFACES = (
    "Drafter", "TreeShaper", "Verifier", "KVPolicy", "MaskPolicy", "ScorePolicy", "KVView", "Runtime",
    "Session", "DraftSession", "TranslatedDraft", "Translation", "TokenTree", "Candidates", "Verdict",
    "Sampling", "Sampler", "Costs", "Pipeline", "Generation",
)  # fmt: skip
STRATEGIES = ("prompts", "trees", "schedules", "models")
SAID = {
    "Expand": "What a shaper asks with, `(tree, frontier, k) -> Candidates`",
    "hookimpl": "Marks a function as the implementation of a hook",
}
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """A page with its generated parts written anew."""
    parts = {"interfaces": interfaces, "properties": properties, "names": names}
    return MARKED.sub(lambda m: "\n".join([m[1], *parts[m[2]](), "", m[3]]), text)


def interfaces() -> Iterator[str]:
    """Every class that an author meets: its docstring, attributes and methods."""
    for name in INTERFACES:
        cls = getattr(toolkit, name)
        tree = ast.parse(inspect.getsource(cls)).body[0]
        assert isinstance(tree, ast.ClassDef)  # noqa: S101
        yield from (f"### `{name}`", "", _text(tree), "")
        yield from _members(tree)


def _members(tree: ast.ClassDef) -> Iterator[str]:
    members = [m for m in tree.body if not getattr(m, "name", "").startswith("_")]
    for index, member in enumerate(members):
        if isinstance(member, ast.FunctionDef):
            yield from (f"- `{_signature(member)}`", f"  {_text(member)}", "")
        elif isinstance(member, ast.AnnAssign) and "ClassVar" in ast.unparse(member.annotation):
            after = members[index + 1] if index + 1 < len(members) else None
            doc = after.value.value if _is_doc(after) else ""  # type: ignore[union-attr]
            yield from (f"- `{ast.unparse(member)}`", f"  {_flat(doc)}", "")


def _is_doc(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _signature(member: ast.FunctionDef) -> str:
    """`grow(root: TokenTree, expand: Expand) -> TokenTree`; a property as `nodes: int`."""
    returns = ast.unparse(member.returns) if member.returns else "None"
    if any(ast.unparse(d) == "property" for d in member.decorator_list):
        return f"{member.name}: {returns}"
    arguments = [a for a in ast.unparse(member.args).split(", ") if a not in ("self", "cls")]
    return f"{member.name}({', '.join(arguments)}) -> {returns}"


def _text(node: ast.ClassDef | ast.FunctionDef) -> str:
    """A docstring, its paragraphs in one line each."""
    paragraphs = (ast.get_docstring(node) or "").split("\n\n")
    lead = "  " if isinstance(node, ast.FunctionDef) else ""
    return f"\n\n{lead}".join(map(_flat, paragraphs))


def _flat(text: object) -> str:
    return " ".join(str(text).split())


def properties() -> Iterator[str]:
    """Every property, the kinds of strategy it tests, and the bugs in the gallery that it catches."""
    yield from ("| property | kinds | what must hold | bugs that it catches |", "|---|---|---|---|")
    for prop in PROPERTIES:
        kinds = "all" if len(prop.kinds) == 4 else ", ".join(sorted(prop.kinds))
        caught = ", ".join(s.name.replace("_", " ") for s in GALLERY if s.by == prop.name)
        yield f"| `{prop.name}` | {kinds} | {prop.sentence} | {caught} |"


def names() -> Iterator[str]:
    """Every public name with the first sentence that it says of itself."""
    yield from ("| name | |", "|---|---|")
    for module, public in (
        ("toolkit", toolkit.__all__),
        ("toolkit.conformance", conformance.__all__),
        ("toolkit.conformance.generators", STRATEGIES),
    ):
        for name in sorted(public):
            yield f"| `{module}.{name}` | {_sentence(getattr(import_module(module), name), name)} |"


def _sentence(thing: object, name: str) -> str:
    """The first sentence of a docstring; for what is no class and no function, of the text below."""
    if inspect.isclass(thing) or inspect.isfunction(thing):
        text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    else:
        text = SAID.get(name) or _below(name)
    return re.split(r"[.;] |: |\.$", _flat(text))[0]


def _below(name: str) -> str:
    """The string that follows the line `name = …` in the module that the name is from."""
    home = import_module(f"toolkit.{toolkit._HOMES[name]}")
    found = re.search(
        rf'^{name} = .*\n"""(.*?)"""', inspect.getsource(home), re.MULTILINE | re.DOTALL
    )
    return found[1] if found else ""


def strategy_tables(text: str) -> str:
    """docs/strategies.md with the options of every built-in strategy."""
    for (_, name), entry in Registry.installed().entries.items():
        if entry.distribution == OURS:
            rows = [_option_row(option) for option in options_of(entry.cls)]
            text = _with_rows(text, f"### `{name}`", rows)
    return text


def _option_row(option: attrs.Attribute[Any]) -> str:
    if option.default is attrs.NOTHING:
        default = "required"
    elif value := format_value(option.default):
        default = f"`{value}`"
    else:
        default = "chosen for you" if option.metadata["model"] else "none"
    return f"| `{option.name}` | {type_name(option)} | {default} | {option.metadata['help']} |"


def column_tables(text: str) -> str:
    """docs/data.md with the columns of every table."""
    parts = {f"## `{table}`": columns for table, columns in TABLES.items()}
    parts["### `runs` of a bench"] = schema(ArmColumns)
    parts["### `requests` of a bench"] = schema(SampleColumns)
    parts["## Answers of a cascade"] = schema(Answer)
    for heading, columns in parts.items():
        text = _with_rows(text, heading, [_column_row(column) for column in columns])
    return text


def _column_row(column: pa.Field) -> str:
    kind = column.type
    name = f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)
    null = ", null" if column.nullable else ""
    return f"| `{column.name}` | {name}{null} | {column.metadata[b'help'].decode()} |"


def _with_rows(text: str, heading: str, rows: list[str]) -> str:
    """A page whose table below a heading has these rows."""
    before, title, after = text.partition(f"\n{heading}\n")
    section, mark, rest = after.partition("\n#")
    block = "".join(f"{row}\n" for row in rows)
    section = re.sub(r"(^\| `.*\n)+", lambda _: block, f"{section}\n", count=1, flags=re.M)[:-1]
    return f"{before}{title}{section}{mark}{rest}"


PAGES = {"plugins.md": page, "strategies.md": strategy_tables, "data.md": column_tables}

if __name__ == "__main__":
    for name, write in PAGES.items():
        file = DOCS / name
        file.write_text(write(file.read_text(encoding="utf-8")), encoding="utf-8")
