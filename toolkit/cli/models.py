"""`toolkit models`: the short names of models, and which models are on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.cli import options


@click.command()
@options.plugin()
def models(plugins: tuple[Path, ...]) -> None:
    """List the aliases of models, their hub ids, and whether the weights are on this machine.

    Any Hugging Face causal LM works by its folder or hub id. With an alias, the usual drafter or target
    of its family is found, too.
    """
    from rich.table import Table

    from toolkit.terminal import print_table

    table = Table("alias", "model", "here", box=None, pad_edge=False)
    usual = Table("target", "its usual drafter", box=None, pad_edge=False)
    for column in (*table.columns, *usual.columns):
        column.overflow = "fold"
    for family in options.load_registry(plugins).families:
        for alias, place in family.models.items():
            table.add_row(alias, _format_place(place), _here(place))
        usual.add_row(family.target, family.drafter)
    print_table(table)
    click.echo()
    print_table(usual)
    click.echo("\nTo get one: hf download OWNER/NAME. Any other: --target FOLDER or OWNER/NAME.")


def _format_place(place: str) -> str:
    return "in this package" if place.startswith("package:") else place


def _here(place: str) -> str:
    if place.startswith("package:"):
        from toolkit import embedded

        return "yes" if (embedded.folder(place[8:]) / "config.json").is_file() else "no"
    from toolkit.runtime.models.locate import in_hub_cache

    return "yes" if in_hub_cache(place) else "no"
