"""A package's strategies are found where they are defined; what one plugin returns is its own."""

import sys
from types import ModuleType

import pluggy
import pytest

from toolkit import Registry, Strategy, TreeShaper, hookimpl, hookspecs, strategies_in
from toolkit.errors import PluginError
from toolkit.plugins import call_hook

MODULE = """
import attrs
from toolkit import TreeShaper, option
from toolkit.strategies.shapers.chain import Chain  # defined elsewhere

@attrs.define
class {name}(TreeShaper):
    name = "{name}"
    nodes: int = option(4)
    def grow(self, root, expand):
        return root
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a module, and with a subpackage that has another."""
    for path in ("many/__init__.py", "many/one.py", "many/more/__init__.py", "many/more/two.py"):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        name = file.stem.capitalize()
        file.write_text("" if name == "__init__" else MODULE.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    yield "many"
    for name in [name for name in sys.modules if name.partition(".")[0] == "many"]:
        del sys.modules[name]


def test_every_strategy_that_a_package_defines_is_found_once(package):
    found = strategies_in(package)
    assert [cls.__name__ for cls in found] == ["Two", "One"]
    assert all(issubclass(cls, Strategy) for cls in found)


def test_a_module_that_does_not_import_is_an_error(package, tmp_path):
    (tmp_path / "many" / "three.py").write_text("import no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError):
        strategies_in(package)


def test_a_hook_is_called_on_one_plugin_alone():
    plugins = pluggy.PluginManager("toolkit")
    plugins.add_hookspecs(hookspecs)
    one, other, silent = (ModuleType(name) for name in ("one", "other", "silent"))
    one.strategies = hookimpl(specname="strategies")(lambda: iter([TreeShaper]))
    other.strategies = hookimpl(specname="strategies")(lambda: 1 / 0)
    for plugin in (one, other, silent):
        plugins.register(plugin)
    assert call_hook(plugins, "strategies", one, "theirs") == [TreeShaper]
    assert call_hook(plugins, "strategies", silent, "theirs") == []
    with pytest.raises(ZeroDivisionError):
        call_hook(plugins, "strategies", other, "theirs")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("missing.py", None, "no plugin file"),
        ("notes.txt", "", "is not a Python file: its name must end in .py"),
        ("syntax.py", "def", "does not import: SyntaxError"),
        ("imports.py", "import no_such_module_anywhere", "does not import: ModuleNotFoundError"),
        ("lines.py", "raise RuntimeError('one\\ntwo')", "does not import: RuntimeError: one"),
        (
            "hooks.py",
            "from toolkit import hookimpl\n@hookimpl\ndef strategeis(): return []",
            "cannot be used: PluginValidationError",
        ),
    ],
)
def test_a_file_that_is_no_plugin(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    empty = Registry()
    with pytest.raises(PluginError) as caught:
        empty.add_file(path)
    message = str(caught.value)
    assert said in message
    assert str(path) in message
    assert "Traceback" not in message
    assert "registry.py" not in message
    assert empty.entries == {}
    assert "toolkit_plugin_syntax" not in sys.modules
