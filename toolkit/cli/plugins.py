"""`toolkit plugins`: list the strategies and where they come from, show one, write a new one."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import FullHelp, options
from toolkit.cli.new import new
from toolkit.errors import SpecError

if TYPE_CHECKING:
    from toolkit import Registry, Strategy

DECLARATIONS = {
    "proposals": "proposals that it makes",
    "assumes": "proposals its proof covers",
    "prunes": "drops drafted nodes",
    "exactness": "exactness",
}


@click.group(cls=FullHelp)
def plugins() -> None:
    """List strategies, show one, or write a package for a new one."""


plugins.add_command(new)


@plugins.command("list")
@options.as_json(help="A JSON array on stdout.")
@click.option(
    "--broken", is_flag=True, help="List only plugins that did not load, with tracebacks."
)
@options.plugin()
def list_(as_json: bool, broken: bool, plugins: tuple[Path, ...]) -> None:
    """List every strategy, and every plugin that did not load, with the reason."""
    rows = list_rows(options.load_registry(plugins))
    if broken:
        rows = [row for row in rows if row["status"] == "broken"]
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    if broken:
        for row in rows:
            click.echo("\n".join(filter(None, [f"{row['name']}: {row['reason']}", row["trace"]])))
        click.echo(f"{len(rows)} plugin{'s' * (len(rows) != 1)} did not load")
        return
    from rich.table import Table
    from rich.text import Text

    from toolkit.terminal import print_table

    table = Table("kind", "name", "summary", "from", box=None, pad_edge=False)
    table.columns[2].ratio = 1
    for row in rows:
        origin = f"{row['distribution']} {row['version']}".strip()
        what = Text("did not load: ", style="red") if row["status"] == "broken" else Text()
        what.append(row["reason"] or row["summary"], style="default")
        table.add_row(row["kind"] or "–", row["name"], what, origin)
    print_table(table)


@plugins.command()
@click.argument("name")
@options.plugin()
def show(name: str, plugins: tuple[Path, ...]) -> None:
    """Show what NAME does, its options with defaults, and what it declares."""
    found = options.load_registry(plugins)
    classes = [e.cls for (kind, known), e in found.entries.items() if known == name]
    if not classes:
        raise SpecError(found.describe_unknown(name))
    for cls in classes:
        click.echo(describe_strategy(cls))


def list_rows(found: Registry) -> list[dict[str, Any]]:
    """One row per strategy, then one per plugin that did not load."""
    from toolkit.choice import needs_options

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": kind,
            "summary": summary(entry.cls),
            "distribution": entry.distribution,
            "version": entry.version,
            "status": "ok",
            "reason": None,
            "trace": None,
            "needs_options": needs_options(entry.cls),
        }
        for (kind, name), entry in sorted(found.entries.items())
    ]
    return rows + [
        {
            "name": plugin,
            "kind": None,
            "summary": None,
            "distribution": plugin,
            "version": "",
            "status": "broken",
            "reason": broken.reason,
            "trace": broken.trace or None,
            "needs_options": False,
        }
        for plugin, broken in sorted(found.broken.items())
    ]


def summary(cls: type[Strategy]) -> str:
    """The first paragraph of a class's docstring."""
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def describe_strategy(cls: type[Strategy]) -> str:
    """A strategy's page: its docstring, options and declarations."""
    from toolkit.choice import options_of
    from toolkit.spec import describe

    lines = [f"{cls.kind} {cls.name}", "", inspect.getdoc(cls) or "", ""]
    options = options_of(cls)
    lines += ["options:" if options else "no options"]
    lines += [
        f"  {describe(option)}\n      {option.metadata.get('help', '')}" for option in options
    ]
    return "\n".join([*lines, *_list_declarations(cls), ""])


def _list_declarations(cls: type[Strategy]) -> list[str]:
    """The class attributes that others rely on, such as its exactness, in words."""
    return [
        f"{label}: {_in_words(getattr(cls, name))}"
        for name, label in DECLARATIONS.items()
        if hasattr(cls, name)
    ]


def _in_words(value: frozenset[str] | bool | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(sorted(value)) if isinstance(value, frozenset) else value
