"""Figures in both themes as PNG and SVG files, and the HTML page that holds them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from toolkit.progress import working

RC = {
    "svg.hashsalt": "toolkit",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a $ in an arm's name starts no formula
}


@frozen
class PageFigure:
    """One figure of the page: a data URI per theme."""

    name: str
    title: str
    caption: str
    images: dict[str, str]


def draw_figures(
    figures: Iterable[ModuleType], data: Any, note: str, folder: Path
) -> list[PageFigure]:
    """Write every figure that the data can fill to the folder, with a note below it.

    A figure is a module with `TITLE`, `CAPTION` and `draw(data, theme)`, which returns None when the
    data lack what it shows.
    """
    import matplotlib as mpl

    from toolkit.theme import THEMES

    drawn = []
    for figure in figures:
        with working(f"Drawing: {figure.TITLE}"), mpl.rc_context(RC):
            images = {theme.name: _save(figure, data, theme, note, folder) for theme in THEMES}
        if all(images.values()):
            drawn.append(PageFigure(_name(figure), figure.TITLE, figure.CAPTION, images))
    return drawn


def _save(figure: ModuleType, data: Any, theme: Any, note: str, folder: Path) -> str:
    """Save one figure in one theme to the folder; its data URI, empty when nothing is drawn."""
    drawn = figure.draw(data, theme)
    if drawn is None:
        return ""
    stem = folder / f"{_name(figure)}{'' if theme.name == 'light' else '-' + theme.name}"
    theme.add_note(drawn, note)
    drawn.savefig(stem.with_suffix(".png"), dpi=160)
    vector = io.BytesIO()
    drawn.savefig(vector, format="svg", metadata={"Date": None})
    stem.with_suffix(".svg").write_bytes(vector.getvalue())
    return "data:image/svg+xml;base64," + base64.b64encode(vector.getvalue()).decode()


def _name(figure: ModuleType) -> str:
    return figure.__name__.rpartition(".")[2]


def render_page(template: str, title: str, **values: Any) -> str:
    """A page as HTML: `template` extends `page.html`, which has the style and the figures."""
    from jinja2 import DictLoader, Environment

    base = (files(__package__) / "page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({"page.html": base}),
    )
    return environment.from_string(template).render(title=title, **values)
