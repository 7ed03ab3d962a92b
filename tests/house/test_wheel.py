"""The wheel has the modules and data of the repository that ship, under one name."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import toolkit

MAPPED = {
    "toolkit": "toolkit",
    "strategies": "toolkit/strategies",
    "kvcache": "toolkit/kvcache",
    "bench": "toolkit/bench",
    "cascade": "toolkit/cascade",
}
IMPORTED_AS = {"scikit_learn": "sklearn"}
DATA = ("*.json", "*.safetensors")
# Parts of the core that extras are for.
WITH_EXTRAS = ("cli", "conformance", "show", "figures.py", "theme.py")


def place(path):
    """The path of a source file in the wheel."""
    return Path(MAPPED[path.parts[0]], *path.parts[1:])


@pytest.fixture(scope="module")
def source(files):
    """The source files that ship."""
    return [
        path
        for path in files
        if path.parts[0] in MAPPED and len(path.parts) > 1
    ]


@pytest.fixture(scope="module")
def settings(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(root, files, tmp_path_factory):
    """The file names in a wheel, built from a clean copy of the repository."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for path in files:
        if path.parts[0] in MAPPED or len(path.parts) == 1:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, copy / path)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", build, str(out)], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return {Path(name) for name in archive.namelist()}


def test_pyproject_lists_every_package(settings, source):
    packages = {".".join(place(path).parent.parts) for path in source if path.suffix == ".py"}
    assert sorted(settings["packages"]) == sorted(packages)


def test_every_package_has_a_docstring(root, source):
    for folder in {path.parent for path in source if path.suffix == ".py"}:
        package = (root / folder / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(package)), folder


def test_the_wheel_holds_every_module_and_no_other(wheel, source):
    modules = {place(path) for path in source if path.suffix == ".py"}
    assert {name for name in wheel if name.suffix == ".py"} == modules


def test_the_wheel_has_one_top_level(wheel):
    tops = {name.parts[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"toolkit"}


def test_the_wheel_is_typed_and_licensed(wheel):
    assert Path("toolkit/py.typed") in wheel
    assert [name for name in wheel if name.name == "LICENSE"]


def test_every_import_is_declared(root, source, project):
    """Modules import only what is required or in an extra. The core needs no extra."""
    required, optional = declared(project)
    for path in [path for path in source if path.suffix == ".py"]:
        core = path.parts[0] == "toolkit" and path.parts[1] not in WITH_EXTRAS
        allowed = required if core else required | optional
        allowed = allowed | {"triton"}  # comes with PyTorch for CUDA; kernels do without it elsewhere
        assert imports(root / path) - sys.stdlib_module_names - allowed <= {"toolkit"}, path


def declared(project):
    """The names of the required modules, and of those in extras."""
    extras = project["optional-dependencies"]
    groups = project["dependencies"], [line for name in extras for line in extras[name]]
    names = [[Requirement(line).name.replace("-", "_") for line in group] for group in groups]
    return [{IMPORTED_AS.get(name, name) for name in group} for group in names]


def imports(path):
    """The top-level packages that a module imports, at any place in its code."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def test_test_libraries_are_optional(project):
    required, optional = declared(project)
    assert {"hypothesis", "jinja2", "matplotlib", "pytest"} <= optional - required


def test_the_wheel_holds_the_models(wheel, source):
    """Weights, configurations, tokenizers and the card, if the checkout has them."""
    embedded = [path for path in source if path.parts[:2] == ("toolkit", "embedded")]
    data = {path for path in embedded if path.name == "CARD.md" or any(map(path.match, DATA))}
    assert {place(path) for path in data} <= wheel


def test_the_wheel_holds_what_the_bench_reads(wheel, source):
    """Plans, the template of the report, and prompts."""
    data = {path for path in source if path.parts[0] == "bench" and path.suffix != ".py"}
    assert len(data) > 8
    assert {place(path) for path in data} <= wheel


def test_the_wheel_holds_nothing_else(wheel, source):
    inside = {name for name in wheel if name.parts[0] == "toolkit"}
    assert inside <= {place(path) for path in source}


def installed_files():
    """The files of our distribution in this environment, without the metadata in the checkout."""
    site = Path(sys.prefix).resolve()
    found = distributions(name="speculative-toolkit")
    return [f for d in found if Path(d.locate_file("")).resolve().is_relative_to(site) for f in d.files]


@pytest.mark.installed
def test_the_tests_see_what_is_installed(root):
    """An editable install is the checkout; any other is in this environment."""
    names = map(str, installed_files())
    editable = any("__editable__" in name for name in names)
    home = root if editable else Path(sys.prefix).resolve()
    assert Path(toolkit.__file__).resolve().is_relative_to(home)


@pytest.mark.installed
def test_what_is_installed_has_one_top_level():
    names = [
        Path(path).parts[0]
        for path in installed_files()
        if ".." not in str(path)
    ]
    names = [name for name in names if not name.startswith("__editable__")]
    assert {n for n in names if not n.endswith(".dist-info") and n != "__pycache__"} <= {"toolkit"}
