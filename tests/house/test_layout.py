"""The layout of the repository, and the documentation of every strategy."""

import inspect
import re
import sys
import tomllib
from pathlib import Path

import attrs
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from toolkit import Registry
from toolkit.choice import format_value, options_of
from toolkit.interfaces import INTERFACES
from toolkit.spec import type_name

FOLDERS = {
    ".ci", "bench", "cascade", "docs", "kvcache", "plugins", "strategies", "tests", "toolkit", "tools",
}  # fmt: skip
FILES = {
    ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "constraints.txt",
    "pyproject.toml",
}  # fmt: skip
HOMES = {
    "drafter": "strategies/drafters",
    "shaper": "strategies/shapers",
    "verifier": "strategies/verifiers",
    "kv": "kvcache",
    "scorer": "cascade/scorers",
    "policy": "cascade/policies",
}
BUILT_IN = {
    key: entry.cls
    for key, entry in sorted(Registry.installed().entries.items())
    if entry.distribution == "speculative-toolkit"
}
each_built_in = pytest.mark.parametrize(
    ("kind", "name"), BUILT_IN, ids=[f"{kind}-{name}" for kind, name in BUILT_IN]
)


@pytest.fixture(scope="module")
def pins(root):
    """The pinned versions in constraints.txt: name → version."""
    lines = (root / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_the_root_holds_these_and_nothing_else(root, tracked):
    assert {path.parts[0] for path in tracked} <= FOLDERS | FILES
    assert {name for name in FOLDERS if not (root / name).is_dir()} == set()
    assert {name for name in FILES if not (root / name).is_file()} == set()


def test_constraints_are_only_names_and_versions(root):
    for line in (root / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9]+[A-Za-z0-9.]*", line), line


def test_constraints_are_sorted_and_unique(root):
    names = [
        line.partition("==")[0].lower()
        for line in (root / "constraints.txt").read_text().splitlines()
    ]
    assert names == sorted(set(names))


def test_every_requirement_is_pinned_within_its_range(project, pins):
    extras = [r for requirements in project["optional-dependencies"].values() for r in requirements]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if requirement.name == project["name"]:
            continue
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pinned), f"{requirement} is pinned to {pinned}"


@pytest.mark.parametrize("path", ["Makefile", "README.md", ".ci/run"])
def test_torch_comes_first_and_bare(root, pins, path):
    """The line that installs PyTorch is the same in every file, and takes the default build."""
    lines = re.findall(r"pip install .*-c constraints\.txt .*", (root / path).read_text())
    assert lines[0].endswith(f"-c constraints.txt torch=={pins['torch']}")


def test_the_version_is_in_the_changelog(root, project):
    assert f"\n## {project['version']}" in (root / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(("kind", "home"), HOMES.items())
def test_every_file_is_a_strategy(root, kind, home):
    stems = {path.stem.replace("_", "-") for path in (root / home).glob("*.py")} - {"--init--"}
    assert stems == {name for of, name in BUILT_IN if of == kind}


@each_built_in
def test_a_strategy_has_a_file_of_its_own_name(kind, name):
    module = BUILT_IN[kind, name].__module__
    home = "toolkit." + HOMES[kind].replace("/", ".")
    assert module == f"{home}.{name.replace('-', '_')}"


@each_built_in
def test_a_strategy_has_a_docstring(kind, name):
    cls = BUILT_IN[kind, name]
    assert vars(cls).get("__doc__")
    assert inspect.getdoc(sys.modules[cls.__module__])


@each_built_in
def test_a_strategy_inherits_once_from_its_interface(kind, name):
    assert BUILT_IN[kind, name].__bases__ in [(base,) for base in INTERFACES if base.kind == kind]


@each_built_in
def test_every_option_has_help(kind, name):
    for option in options_of(BUILT_IN[kind, name]):
        text = option.metadata.get("help", "")
        assert text, option.name
        assert "\n" not in text


@each_built_in
def test_a_strategy_is_documented_as_it_is(root, kind, name):
    page = (root / "docs" / "strategies.md").read_text(encoding="utf-8")
    section = page.partition(f"\n### `{name}`\n")[2].partition("\n#")[0]
    assert "\nFrom: " in section
    assert "\nUse it " in section
    table = re.findall(r"^\| `.*", section, re.MULTILINE)
    assert table == [row(option) for option in options_of(BUILT_IN[kind, name])]


def row(option):
    """The row of an option in docs/strategies.md."""
    value = "" if option.default is attrs.NOTHING else format_value(option.default)
    absent = "chosen for you" if option.metadata["model"] else "none"
    default = f"`{value}`" if value else absent
    if option.default is attrs.NOTHING:
        default = "required"
    return f"| `{option.name}` | {type_name(option)} | {default} | {option.metadata['help']} |"


def test_the_documentation_has_no_others(root):
    page = (root / "docs" / "strategies.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### `(.*)`$", page, re.MULTILINE)) == sorted(
        name for _, name in BUILT_IN
    )


def test_every_plugin_is_a_package_with_tests(root):
    folders = [path for path in (root / "plugins").iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        data = tomllib.loads((folder / "pyproject.toml").read_text())
        assert data["project"]["name"] == folder.name
        for module in data["project"]["entry-points"]["toolkit"].values():
            assert (folder / f"{module}.py").is_file()
        assert list(folder.glob("test_*.py"))
        assert (folder / "README.md").is_file()


def test_tests_are_not_packages():
    assert list(Path(__file__).parents[1].rglob("__init__.py")) == []
