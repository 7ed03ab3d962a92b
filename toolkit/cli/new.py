"""`toolkit plugins new`: write a package for a new strategy, from the templates that ship."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import click

from toolkit.cli import options
from toolkit.errors import ToolkitError
from toolkit.extras import require_extra
from toolkit.words import quote

WHAT = {
    "drafter": "drafter",
    "shaper": "tree shaper",
    "verifier": "verifier",
    "kv": "KV policy",
    "scorer": "scorer",
    "policy": "stop policy",
    "dataset": "data set",
}
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@click.command()
@click.argument("name")
@options.kind(required=True, type=click.Choice(list(WHAT)), help="What the package provides.")
def new(name: str, kind: str) -> None:
    """Write a package for a strategy called NAME into the folder toolkit-NAME.

    The package works at once. It has pyproject.toml with the entry point, a small strategy, its
    conformance test, a README and a CI file.
    """
    require_extra("toolkit plugins new", "testing", "jinja2")
    if not NAME.fullmatch(name):
        raise ToolkitError(
            f"{quote(name)} is not a name for a strategy: use lower-case words, as in my-{kind}"
        )
    folder = Path(f"toolkit-{name}")
    if folder.exists():
        raise ToolkitError(f"{folder} exists already: choose another name or remove it")
    taken = options.load_registry(()).entries.get((kind, name))
    if taken:
        raise ToolkitError(
            f"there is a {kind} called {name!r} already, from {taken.distribution}: choose another name"
        )
    for path, text in render_package(name, kind).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    click.echo(f"wrote {folder}. Next:\n\n  cd {folder}\n  pip install -e .\n  pytest")


def render_package(name: str, kind: str) -> dict[str, str]:
    """Render the files of a new package: path → text."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    templates = files("toolkit") / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda path: (templates / path).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 the output is code, not HTML
    )
    words = {
        "name": name,
        "kind": kind,
        "what": WHAT[kind],
        "distribution": f"toolkit-{name}",
        "module": f"toolkit_{name.replace('-', '_')}",
        "ident": name.replace("-", "_"),
        "cls": "".join(word.capitalize() for word in name.split("-")),
        "range": _range(version("speculative-toolkit")),
        "run": f"toolkit {_run(kind)} {name}",
    }
    return {
        path: environment.get_template(template).render(words)
        for path, template in {
            "pyproject.toml": "common/pyproject.toml.jinja",
            "README.md": "common/README.md.jinja",
            ".gitignore": "common/gitignore.jinja",
            ".github/workflows/test.yml": "common/test.yml.jinja",
            f"{words['module']}.py": f"{kind}/strategy.py.jinja",
            f"test_{words['ident']}.py": f"{kind}/test.py.jinja",
        }.items()
    }


def _run(kind: str) -> str:
    """The command that a new package's README suggests, up to the name."""
    if kind == "dataset":
        return "bench --arm drafter=model --prompts 3 --dataset"
    if kind in ("scorer", "policy"):
        return f"cascade fit answers --trade-off 1 --{kind}"
    return f'run "Once upon a time" --verify --{kind}'


def _range(ours: str) -> str:
    """The range of versions for a plugin written today: from this one to the next that may break it."""
    major, minor, *_ = ours.split(".")
    after = f"0.{int(minor) + 1}" if major == "0" else str(int(major) + 1)
    return f">={major}.{minor},<{after}"
