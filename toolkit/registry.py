"""The strategies, model families and data sets of one process, from built-ins and plugins.

Each entry point is loaded in a `try` of its own, so a broken plugin fails only the runs that ask for
it. Built-ins use the same entry-point group as plugins and load first. Other plugins are imported only
when a name is not built in, or when everything is listed, because their imports may be slow.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pluggy

from toolkit import hookspecs
from toolkit.choice import Choice, Strategy
from toolkit.errors import PluginError, SpecError, format_trace
from toolkit.files import is_folder
from toolkit.hookspecs import Dataset, Family
from toolkit.plugins import (
    HOOKS,
    OURS,
    Entry,
    Provided,
    call_hook,
    describe_error,
    find_owner,
    import_file,
    require_our_version,
)
from toolkit.spec import parse, require_valid
from toolkit.words import did_you_mean, quote

GROUP = "toolkit"


@attrs.frozen
class BrokenPlugin:
    """A plugin that did not load, and why.

    `suggests` is the name of its entry point, often that of its strategy. `trace` has the frames of
    the author's own code.
    """

    suggests: str
    reason: str
    trace: str


@attrs.define
class Registry:
    """All strategies, model families and data sets of one process."""

    _provided: Provided = attrs.field(init=False, factory=Provided)
    _broken: dict[str, BrokenPlugin] = attrs.field(init=False, factory=dict)
    _waiting: list[EntryPoint] = attrs.field(init=False, factory=list)  # not loaded yet
    _plugins: pluggy.PluginManager = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._plugins = pluggy.PluginManager(GROUP)
        self._plugins.add_hookspecs(hookspecs)

    @classmethod
    def installed(cls) -> Registry:
        """A registry of every installed plugin. Built-ins load first, so their names are taken."""
        registry = cls()
        for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
            if find_owner(point)[0] == OURS:
                registry._load(point)
            else:
                registry._waiting.append(point)
        return registry

    def _load_waiting(self) -> None:
        while self._waiting:
            self._load(self._waiting.pop(0))

    @property
    def entries(self) -> dict[tuple[str, str], Entry]:
        """Every strategy by kind and name."""
        self._load_waiting()
        return self._provided.entries

    @property
    def families(self) -> list[Family]:
        """Every model family."""
        self._load_waiting()
        return self._provided.families

    @property
    def datasets(self) -> dict[str, Dataset]:
        """Every data set by name."""
        self._load_waiting()
        return self._provided.datasets

    @property
    def broken(self) -> dict[str, BrokenPlugin]:
        """Plugins that failed to load, by distribution and entry point."""
        self._load_waiting()
        return self._broken

    def _load(self, point: EntryPoint) -> None:
        distribution, version = find_owner(point)
        try:
            require_our_version(point)
            self.add(point.load(), distribution, version)
        except (Exception, SystemExit) as error:  # noqa: BLE001 a plugin may raise anything
            own = "" if isinstance(error, PluginError) else format_trace(error, point.value)
            self._broken[f"{distribution} ({point.value})"] = BrokenPlugin(
                point.name, describe_error(error), own
            )

    def add_file(self, path: Path) -> None:
        """Register a single .py file as a plugin, unless it is installed already. Raises
        `PluginError`."""
        if not path.is_file():
            raise PluginError(f"no plugin file {path}: --plugin takes a Python file of your own")
        self._load_waiting()  # names of installed plugins go before those of files
        if self._has_installed(path):
            return
        module = import_file(path)
        self.add(module, str(path), "file")
        if not self._plugins.get_hookcallers(module):
            raise PluginError(
                f"plugin {path} provides nothing: it needs a function `strategies` marked "
                f"@toolkit.hookimpl"
            )

    def _has_installed(self, path: Path) -> bool:
        """Whether an installed plugin is this file or a copy of it."""
        for name, module in self._plugins.list_name_plugin():
            file = Path(getattr(module, "__file__", None) or "")
            installed = file.is_file() and not name.startswith(f"{path}:")
            if installed and file.read_bytes() == path.read_bytes():
                return True
        return False

    def add(self, plugin: ModuleType, distribution: str, version: str) -> None:
        """Register everything that a plugin provides, or nothing. Raises `PluginError`."""
        name = f"{distribution}:{plugin.__name__}"
        if self._plugins.is_registered(plugin) or self._plugins.has_plugin(name):
            raise PluginError(f"plugin {distribution} is given twice: give it once")
        self._plugins.register(plugin, name)
        try:
            self._plugins.check_pending()  # raises for a misspelt hook
            rows = {hook: call_hook(self._plugins, hook, plugin, distribution) for hook in HOOKS}
            self._provided = self._provided.with_rows(rows, distribution, version)
        except Exception as error:
            self._plugins.unregister(plugin)
            if isinstance(error, PluginError):
                raise
            raise PluginError(
                f"plugin {distribution} cannot be used: {describe_error(error)}"
            ) from error

    @property
    def aliases(self) -> dict[str, str]:
        """Alias → hub id, or `package:FOLDER` for a model that ships."""
        return {alias: place for family in self.families for alias, place in family.models.items()}

    def names(self, kind: str) -> list[str]:
        """Registered names of one kind, sorted."""
        return sorted(name for k, name in self.entries if k == kind)

    def _entry(self, kind: str, name: str) -> Entry | None:
        """The strategy of this kind and name. Plugins are loaded only when no built-in has the name."""
        known = self._provided.entries.get((kind, name))
        return known or self.entries.get((kind, name))

    def find(self, kind: str, name: str) -> type[Strategy]:
        """The class of this kind and name.

        Raises `SpecError` with the nearest names, or `PluginError` when its plugin did not load.
        """
        known = self._entry(kind, name)
        if known is not None:
            return known.cls
        for plugin, broken in self.broken.items():
            if name == broken.suggests:
                raise PluginError(
                    f"no {kind} called {quote(name)}: plugin {plugin} did not load: {broken.reason}"
                    + (f"\n{broken.trace}" if broken.trace else "")
                )
        names = self.names(kind)
        if not names:
            raise SpecError(f"no {kind} is registered: in a checkout, run `pip install -e .`")
        models = list(self.aliases) if kind == "drafter" else []
        hint = did_you_mean(name, names + models, f"there are: {', '.join(names)}")
        failed = f" (did not load: {'; '.join(self.broken)}; see `toolkit plugins list --broken`)"
        failed = failed if self.broken else ""
        raise SpecError(f"no {kind} called {quote(name)}: {hint}{failed}")

    def kind_of(self, name: str) -> str:
        """The kind of the strategy with this name. Raises `SpecError` for none, or more than one."""
        kinds = [kind for kind, known in self.entries if known == name]
        if not kinds:
            raise SpecError(self.describe_unknown(name))
        if len(kinds) > 1:
            raise SpecError(
                f"{name!r} is a {' and a '.join(sorted(kinds))}: say which, --kind {kinds[0]}"
            )
        return kinds[0]

    def describe_unknown(self, name: str) -> str:
        """Describe the error of a name that no strategy of any kind has."""
        names = sorted({known for _, known in self.entries})
        hint = did_you_mean(name, names, f"there are: {', '.join(names)}")
        return f"no strategy called {quote(name)}: {hint}"

    def resolve(
        self, kind: str, spec: str | Strategy | type[Strategy] | Choice[Any]
    ) -> Choice[Any]:
        """Resolve a spec string, a strategy, its class or a choice to a valid `Choice` of this kind.

        For a drafter, a model's alias, folder or hub id is short for `model:…`. Raises `SpecError`, or
        `PluginError` when the plugin that seems to have the name did not load.
        """
        if isinstance(spec, str):
            if kind == "drafter" and self._names_a_model(spec):
                return Choice(self.find("drafter", "model"), (("id", spec),))
            return self._with_strategies(parse(kind, spec, self.find, self.resolve))
        choice = spec if isinstance(spec, Choice) else Choice.of(spec)
        if choice.cls.kind != kind:
            raise SpecError(f"{choice} is a {choice.cls.kind}, but a {kind} is needed here")
        require_valid(kind, choice)
        return self._with_strategies(choice)

    def _with_strategies(self, choice: Choice[Any]) -> Choice[Any]:
        """The choice with its nested specs, such as an option's default, resolved to choices."""

        def resolved(field: attrs.Attribute[Any], value: Any) -> Any:
            inner = field.metadata.get("kind")
            if not inner or not isinstance(value, (str, Choice)):
                return value
            return self.resolve(inner, value)

        return choice.map_options(resolved)

    def _names_a_model(self, text: str) -> bool:
        name = text.partition(":")[0]
        if not text or self._entry("drafter", name) is not None:
            return False
        return text in self.aliases or "/" in name or is_folder(text)
