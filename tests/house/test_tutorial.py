"""docs/plugins.md: the tutorial runs from start to end, and the reference matches the code."""

import importlib.util
import re

import pytest

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FEW = 8  # examples of each property: the tests of the kit try more
FILE = re.compile(r"`([\w.]+\.py)`")


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "plugins.md").read_text(encoding="utf-8")


def tutorial(page):
    """The blocks of the tutorial in order: ("file", name, text) for Python, ("line", command, "") for
    commands, ("said", sentence, "") for the property that an output names. The example that it shows
    depends on the strategies that there are."""
    part = page.partition("\n## A tutorial\n")[2].partition("\n## ")[0]
    for found in BLOCK.finditer(part):
        if found[1] == "python":
            yield "file", FILE.findall(part[: found.start()])[-1], found[2]
        elif found[1] == "text":
            yield "said", found[2].splitlines()[2].strip(), ""
        else:
            yield from (("line", line, "") for line in found[2].splitlines())


def test_the_tutorial_runs(page, tmp_path, stranger):
    folder, done, out = tmp_path, 0, ""
    for what, name, text in tutorial(page):
        line, _, expected = name.partition("    # exit status ")
        if what == "file":
            (folder / name).write_text(
                text.replace('conforms("', f'conforms(max_examples={FEW}, spec="')
            )
        elif what == "said":
            assert name in out
        elif line.startswith("cd "):
            folder = folder / line.removeprefix("cd ")
        elif line.startswith("toolkit bench") and not has_bench():
            continue
        else:
            few = f" --max-examples {FEW}" if is_check(line) else ""
            result = stranger.run(line + few, folder)
            assert result.returncode == int(expected or 0), (
                f"{line}\n{result.stdout}{result.stderr}"
            )
            done, out = done + 1, result.stdout
    assert done >= 8


def is_check(line):
    """Whether a command is a check of as many examples as is usual."""
    return line.startswith("toolkit check") and "--max-examples" not in line


def has_bench():
    import click

    from toolkit.cli import main

    return "bench" in main.list_commands(click.Context(main))


def test_the_tutorial_covers_every_step(page):
    kinds = [(what, name) for what, name, _ in tutorial(page)]
    assert [name for what, name in kinds if what == "file"] == [
        "elastic.py", "wrong.py", "test_elastic.py",
    ]  # fmt: skip
    lines = " ".join(name for what, name in kinds if what == "line")
    for command in (
        "toolkit run",
        "toolkit check",
        "plugins new",
        "pip install",
        "pytest",
        "bench",
    ):
        assert command in lines


def test_the_reference_is_what_the_code_says(root, page):
    spec = importlib.util.spec_from_file_location("reference", root / "docs" / "reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert reference.page(page) == page, "run `make docs`"
    assert reference.page(page.replace("`tokens-equal-ar` |", "`another` |")) == page
