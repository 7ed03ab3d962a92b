"""A package's strategies are found where they are defined; what one plugin returns is its own."""

import sys
from types import ModuleType

import pluggy
import pytest

from toolkit import Strategy, TreeShaper, hookimpl, hookspecs, strategies_in
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
