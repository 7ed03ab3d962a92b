"""Plugins: what registers, what is refused, and what the user is told."""

from importlib.metadata import entry_points
from types import ModuleType

import attrs
import pytest

from toolkit import (
    Family,
    KVPolicy,
    MaskPolicy,
    Registry,
    ScorePolicy,
    TreeShaper,
    hookimpl,
    option,
)
from toolkit.errors import PluginError, SpecError


@attrs.define
class Mine(TreeShaper):
    name = "mine"
    nodes: int = option(4)

    def grow(self, root, expand):
        return root


def shaper(name="mine", module=__name__):
    """A fresh shaper class."""
    body = {"name": name, "__annotations__": {"nodes": int}, "nodes": option(4), "grow": Mine.grow}
    return attrs.define(type("Fresh", (TreeShaper,), {**body, "__module__": module}))


def none():
    return []


def plugin(classes=(), families=(), name="a_plugin", **extra):
    module = ModuleType(name)
    module.strategies = hookimpl(specname="strategies")(lambda: list(classes))
    module.families = hookimpl(specname="families")(lambda: list(families))
    vars(module).update(extra)
    return module


def family(name="f", **models):
    first = next(iter(models))
    return Family(name, target=first, drafter=first, models=models)


@pytest.fixture
def empty():
    return Registry()


def test_a_plugin_registers(empty):
    empty.add(plugin([Mine], [family(one="a/b")]), "theirs", "1.0")
    assert empty.names("shaper") == ["mine"]
    assert empty.find("shaper", "mine") is Mine
    assert empty.entries["shaper", "mine"].version == "1.0"
    assert empty.aliases == {"one": "a/b"}


def test_registries_share_nothing(empty):
    empty.add(plugin([Mine]), "theirs", "1.0")
    assert Registry().names("shaper") == []


def test_a_collision_names_both_and_adds_nothing(empty):
    empty.add(plugin([Mine]), "first-one", "1")
    with pytest.raises(PluginError) as caught:
        empty.add(plugin([shaper("other"), shaper("mine")], [family(x="a/x")]), "second-one", "1")
    assert str(caught.value) == (
        "shaper 'mine' of second-one is already provided by first-one: rename one of them"
    )
    assert empty.names("shaper") == ["mine"]
    assert empty.find("shaper", "mine") is Mine
    assert empty.aliases == {}


def test_a_built_in_name_cannot_be_taken():
    registry = Registry.installed()
    with pytest.raises(PluginError, match="is already provided by speculative-toolkit"):
        registry.add(plugin([shaper("chain")]), "greedy-plugin", "1")


def test_after_a_refusal_the_next_plugin_loads(empty):
    with pytest.raises(PluginError):
        empty.add(plugin([int]), "bad", "1")
    with pytest.raises(PluginError):
        empty.add(plugin(strategeis=hookimpl(none)), "misspelt", "1")
    empty.add(plugin([Mine]), "good", "1")
    assert empty.names("shaper") == ["mine"]


class NoAttrs(TreeShaper):
    name = "bare"


@attrs.define
class NoName(TreeShaper):
    nodes: int = option(4)


@attrs.define
class Inherited(Mine):
    pass


@attrs.define
class Neither(KVPolicy):
    name = "neither"


@attrs.define
class Unfinished(MaskPolicy):
    name = "unfinished"


@attrs.define
class Both(MaskPolicy, ScorePolicy):
    name = "both"

    def visible(self, query_pos, key_pos): ...
    def score(self, view): ...


def raises():
    raise RuntimeError("on a bad day")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            plugin([int]),
            "plugin theirs provides <class 'int'>, which is not a strategy: inherit from",
        ),
        (plugin(["chain"]), "plugin theirs provides 'chain', which is not a strategy"),
        (plugin([TreeShaper]), "plugin theirs: TreeShaper must be an attrs class"),
        (plugin([NoAttrs]), "plugin theirs: NoAttrs must be an attrs class (@attrs.define) with a"),
        (plugin([NoName]), "plugin theirs: NoName must be an attrs class"),
        (plugin([Inherited]), "plugin theirs: Inherited must be an attrs class"),
        (
            plugin([Neither]),
            f"plugin theirs provides {Neither!r}, which is not a strategy: inherit",
        ),
        (plugin([Both]), f"plugin theirs provides {Both!r}, which is not a strategy: inherit"),
        (plugin([Unfinished]), "plugin theirs: Unfinished does not implement visible"),
        (
            plugin([shaper(module="strategies.shapers.chain")]),
            "plugin theirs: strategies.shapers.chain is a second copy of a built-in, import "
            "toolkit.strategies.shapers.chain instead",
        ),
        (plugin([shaper(module="kvcache.full")]), "plugin theirs: kvcache.full is a second copy"),
        (plugin(strategeis=hookimpl(none)), "plugin theirs cannot be used: PluginValidation"),
        (
            plugin(strategies=hookimpl(specname="strategies")(raises)),
            "plugin theirs cannot be used: RuntimeError: on a bad day",
        ),
        (
            plugin(strategies=hookimpl(specname="strategies")(lambda: None)),
            "plugin theirs: strategies() returned None, not a list: return a list",
        ),
        (
            plugin(datasets=hookimpl(specname="datasets")(lambda: 3)),
            "plugin theirs: datasets() returned 3, not a list: return a list",
        ),
        (
            plugin(families=["llama"]),
            "plugin theirs provides 'llama': families() must return Family",
        ),
    ],
)
def test_what_is_refused_and_why(empty, module, said):
    with pytest.raises(PluginError) as caught:
        empty.add(module, "theirs", "1")
    assert str(caught.value).startswith(said)
    assert (empty.entries, empty.families) == ({}, [])


def test_an_alias_belongs_to_one_family(empty):
    empty.add(plugin(families=[family("ours", one="a/b", two="a/c")]), "first", "1")
    with pytest.raises(PluginError) as caught:
        empty.add(plugin(families=[family("theirs", two="x/y")]), "second", "1")
    assert str(caught.value) == "alias 'two' of second is already in family 'ours'"
    assert empty.aliases == {"one": "a/b", "two": "a/c"}


GOOD_FILE = """
import attrs
from toolkit import TreeShaper, hookimpl, option

@attrs.define
class Filed(TreeShaper):
    name = "filed"
    nodes: int = option(4)
    def grow(self, root, expand):
        return root

@hookimpl
def strategies():
    return [Filed]
"""


def test_a_file_is_a_plugin(empty, tmp_path):
    path = tmp_path / "filed.py"
    path.write_text(GOOD_FILE)
    empty.add_file(path)
    assert str(empty.resolve("shaper", "filed:nodes=2")) == "filed:nodes=2"
    assert empty.entries["shaper", "filed"].distribution == str(path)


def test_a_file_given_twice_is_said_so(empty, tmp_path):
    path = tmp_path / "twice.py"
    path.write_text(GOOD_FILE)
    empty.add_file(path)
    with pytest.raises(PluginError):
        empty.add_file(path)
    assert empty.names("shaper") == ["filed"]


class Point:
    """An entry point of a distribution that breaks, or not."""

    group, dist = "toolkit", None

    def __init__(self, name, load):
        self.name = self.value = name
        self.load = load


def test_a_broken_distribution_breaks_only_what_asks_for_it(monkeypatch):
    points = [Point("broken", raises), Point("good", lambda: plugin([Mine]))]
    monkeypatch.setattr("toolkit.registry.entry_points", lambda group: points)
    registry = Registry.installed()
    assert list(registry.broken) == ["unknown (broken)"]
    assert registry.broken["unknown (broken)"].reason == "RuntimeError: on a bad day"
    assert registry.find("shaper", "mine") is Mine
    with pytest.raises(SpecError, match=r"no shaper called 'mime': did you mean mine\?") as caught:
        registry.find("shaper", "mime")
    assert "(did not load: unknown (broken); see `toolkit plugins" in str(caught.value)
    with pytest.raises(PluginError, match="did not load: RuntimeError: on a bad day") as caught:
        registry.find("shaper", "broken")
    assert "in raises" in str(caught.value)
    assert "importlib" not in str(caught.value)


def installed_with(monkeypatch, *points):
    """A registry of our own plugins and others."""
    ours = [p for p in entry_points(group="toolkit") if p.dist.name == "speculative-toolkit"]
    monkeypatch.setattr("toolkit.registry.entry_points", lambda group: [*points, *ours])
    return Registry.installed()


def test_a_built_in_is_found_without_anybody_elses_plugin(monkeypatch):
    loaded = []
    registry = installed_with(
        monkeypatch, Point("mine", lambda: loaded.append(1) or plugin([Mine]))
    )
    assert str(registry.resolve("shaper", "adaptive:depth=3")) == "adaptive:depth=3"
    assert str(registry.resolve("drafter", "model:stories-1m")) == "model:stories-1m"
    with pytest.raises(SpecError, match="has no option"):
        registry.resolve("kv", "window:size=3")
    assert loaded == []


@pytest.mark.parametrize(
    "look",
    [
        lambda registry: registry.resolve("shaper", "mine"),
        lambda registry: registry.names("shaper"),
        lambda registry: registry.entries,
        lambda registry: registry.families,
        lambda registry: registry.aliases,
        lambda registry: registry.datasets,
        lambda registry: registry.broken,
        lambda registry: registry.kind_of("mine"),
    ],
)
def test_everybody_elses_plugins_are_loaded_once_where_they_count(monkeypatch, look):
    loaded = []
    registry = installed_with(
        monkeypatch, Point("mine", lambda: loaded.append(1) or plugin([Mine]))
    )
    look(registry)
    look(registry)
    assert loaded == [1]
    assert registry.find("shaper", "mine") is Mine


def test_a_name_that_is_nearly_a_plugins_is_suggested(monkeypatch):
    registry = installed_with(monkeypatch, Point("mine", lambda: plugin([Mine])))
    with pytest.raises(SpecError, match="did you mean mine"):
        registry.find("shaper", "mime")


def test_a_file_that_is_installed_as_well_is_no_error(monkeypatch, tmp_path):
    """The same file, or a copy of it: a checkout's, beside the one in site-packages."""
    installed, given = tmp_path / "installed.py", tmp_path / "given.py"
    for path in (installed, given):
        path.write_text(GOOD_FILE)
    module = plugin([shaper("filed")])
    module.__file__ = str(installed)
    registry = installed_with(monkeypatch, Point("filed", lambda: module))
    for path in (installed, given):
        registry.add_file(path)
    assert registry.names("shaper").count("filed") == 1
    given.write_text(GOOD_FILE + "# another\n")
    with pytest.raises(PluginError, match="is already provided by"):
        registry.add_file(given)


def test_an_installed_plugin_has_its_names_before_a_file(monkeypatch, tmp_path):
    module = plugin([shaper("filed")])
    registry = installed_with(monkeypatch, Point("filed", lambda: module))
    path = tmp_path / "filed.py"
    path.write_text(GOOD_FILE)
    with pytest.raises(PluginError, match=f"'filed' of {path} is already provided by unknown"):
        registry.add_file(path)


@pytest.mark.parametrize(
    ("name", "said"), [("chian", "did you mean chain"), ("twin", "is a drafter and a shaper")]
)
def test_a_name_of_no_kind_or_of_two(monkeypatch, name, said):
    drafter = attrs.define(type("Twin", (Registry.installed().find("drafter", "none"),), {
        "name": "twin", "__module__": __name__,
    }))  # fmt: skip
    registry = installed_with(monkeypatch, Point("twin", lambda: plugin([drafter, shaper("twin")])))
    assert registry.kind_of("chain") == "shaper"
    with pytest.raises(SpecError, match=said):
        registry.kind_of(name)


class Distribution:
    """Metadata of a distribution."""

    name, version = "toolkit-old", "0.0.1"

    def __init__(self, *requires):
        self.requires = list(requires)


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [
        ("speculative-toolkit>=0.1,<0.2", True),
        ("speculative_toolkit", True),
        ("speculative-toolkit>=7; extra == 'testing'", True),
        ("torch>=99", True),
        ("speculative-toolkit>=7", False),
        ("Speculative.Toolkit<0.1", False),
    ],
)
def test_a_plugin_says_for_which_versions_it_is_written(monkeypatch, requirement, fits):
    point = Point("mine", lambda: plugin([Mine]))
    point.dist = Distribution(requirement)
    monkeypatch.setattr("toolkit.registry.entry_points", lambda group: [point])
    registry = Registry.installed()
    assert (registry.names("shaper") == ["mine"]) is fits
    if not fits:
        with pytest.raises(PluginError, match="it is written for speculative-toolkit"):
            registry.find("shaper", "mine")


def test_a_clash_names_both_distributions(monkeypatch):
    one, other = plugin([Mine], name="one"), plugin([shaper()])
    points = [Point("mine", lambda: one), Point("other", lambda: other)]
    for point, name in zip(points, ("toolkit-one", "toolkit-two"), strict=True):
        point.dist = Distribution()
        point.dist.name = name
    monkeypatch.setattr("toolkit.registry.entry_points", lambda group: points)
    (broken,) = Registry.installed().broken.values()
    assert broken.reason == (
        "shaper 'mine' of toolkit-two is already provided by toolkit-one: rename one of them"
    )
    assert broken.trace == ""
