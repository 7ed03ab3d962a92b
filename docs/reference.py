"""Writes the generated parts of docs/plugins.md from the code: `make docs`. A house test compares."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import toolkit
from toolkit import conformance
from toolkit.conformance.catalogue import PROPERTIES

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from saboteurs import GALLERY

PAGE = Path(__file__).with_name("plugins.md")
INTERFACES = (
    "Drafter", "TreeShaper", "Verifier", "KVPolicy", "MaskPolicy", "ScorePolicy", "KVView", "Runtime",
    "Session", "DraftSession", "TokenTree", "Candidates", "Verdict",
    "Sampling", "Sampler",
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
    found = re.search(rf'^{name} = .*\n"""(.*?)"""', inspect.getsource(home), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
