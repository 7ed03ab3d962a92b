"""Plugins: who owns one, how its files are imported, what its hooks return, and checks of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.metadata import version as version_of
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import TypeVar

import attrs
import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from toolkit.choice import Strategy, options_of
from toolkit.errors import PluginError, format_trace
from toolkit.hookspecs import Dataset, Family
from toolkit.interfaces import INTERFACES

OURS = "speculative-toolkit"
HOOKS = ("strategies", "families", "datasets")
Row = TypeVar("Row")
SECOND_COPY = ("strategies.", "kvcache.", "bench.")


def find_owner(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that an entry point belongs to."""
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")


def describe_error(error: BaseException) -> str:
    """An exception in one line."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def require_our_version(point: EntryPoint) -> None:
    """Raise `PluginError` when the plugin's requirements exclude this version of the toolkit."""
    for text in (point.dist.requires or []) if point.dist else []:
        wanted = Requirement(text)
        asked = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if canonicalize_name(wanted.name) == OURS and asked:
            ours = version_of(OURS)
            if not wanted.specifier.contains(ours, prereleases=True):
                raise PluginError(
                    f"it is written for {OURS} {wanted.specifier}, and this is {ours}: install a "
                    f"version of either that fits"
                )


def import_file(path: Path) -> ModuleType:
    """Import a single .py file as a module. Raises `PluginError`."""
    name = f"toolkit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(
            f"plugin {path} does not import: {describe_error(error)}\n{format_trace(error, name)}"
        ) from error
    return module


def strategies_in(package: str) -> list[type[Strategy]]:
    """Every strategy class that the modules of a package define, subpackages included.

    With it a plugin's hook is one line, `return strategies_in(__name__)`, and a new strategy is one
    new file.
    """
    return [
        member
        for found in walk_packages(import_module(package).__path__, f"{package}.")
        for member in vars(import_module(found.name)).values()
        if isinstance(member, type)
        and issubclass(member, Strategy)
        and member.__module__ == found.name
    ]


def call_hook(
    plugins: pluggy.PluginManager, hook: str, plugin: ModuleType, distribution: str
) -> list[object]:
    """Call one hook of one plugin; an empty list when the plugin does not implement it.

    Raises `PluginError` when it does not return a list or another iterable.
    """
    caller = plugins.subset_hook_caller(hook, plugins.get_plugins() - {plugin})
    if not caller.get_hookimpls():
        return []
    answer = next(iter(caller()), None)  # pluggy drops a None
    if not isinstance(answer, Iterable):
        raise PluginError(
            f"plugin {distribution}: {hook}() returned {answer!r:.60}, not a list: return a list"
        )
    return list(answer)


def require_strategy(cls: object, distribution: str) -> type[Strategy]:
    """The class that a plugin provides. Raises `PluginError` when it is not a strategy class."""
    if not (
        isinstance(cls, type)
        and issubclass(cls, Strategy)
        and sum(issubclass(cls, base) for base in INTERFACES) == 1
    ):
        raise PluginError(
            f"plugin {distribution} provides {cls!r}, which is not a strategy: "
            f"inherit from exactly one of {', '.join(base.__name__ for base in INTERFACES)}"
        )
    if "__attrs_attrs__" not in vars(cls) or "name" not in vars(cls):
        raise PluginError(
            f"plugin {distribution}: {cls.__name__} must be an attrs class (@attrs.define) with "
            f"a class attribute `name`"
        )
    if cls.__module__.startswith(SECOND_COPY):
        raise PluginError(
            f"plugin {distribution}: {cls.__module__} is a second copy of a built-in, import "
            f"toolkit.{cls.__module__} instead"
        )
    options_of(cls)  # raises where a type is not known yet
    if missing := getattr(cls, "__abstractmethods__", None):
        raise PluginError(
            f"plugin {distribution}: {cls.__name__} does not implement {', '.join(sorted(missing))}"
        )
    return cls


def require_row(row: object, wanted: type[Row], hook: str, distribution: str) -> Row:
    """A row that a plugin's hook gives. Raises `PluginError` when it is of another class."""
    if not isinstance(row, wanted):
        raise PluginError(
            f"plugin {distribution} provides {row!r}: {hook}() must return {wanted.__name__} rows"
        )
    return row


@attrs.frozen
class Entry:
    """A registered strategy class and where it came from."""

    cls: type[Strategy]
    distribution: str
    version: str


@attrs.frozen
class Provided:
    """What plugins provide: strategies by kind and name, model families, and data sets by name."""

    entries: dict[tuple[str, str], Entry] = attrs.field(factory=dict)
    families: list[Family] = attrs.field(factory=list)
    datasets: dict[str, Dataset] = attrs.field(factory=dict)

    def with_rows(
        self, rows: Mapping[str, Iterable[object]], distribution: str, version: str
    ) -> Provided:
        """Add what the hooks of one more plugin return. Raises `PluginError` for a taken name."""
        more = Provided(dict(self.entries), list(self.families), dict(self.datasets))
        for row in rows["strategies"]:
            more._add_strategy(require_strategy(row, distribution), distribution, version)
        for row in rows["families"]:
            more._add_family(require_row(row, Family, "families", distribution), distribution)
        for row in rows["datasets"]:
            more._add_dataset(require_row(row, Dataset, "datasets", distribution), distribution)
        return more

    def _add_strategy(self, cls: type[Strategy], distribution: str, version: str) -> None:
        taken = self.entries.get((cls.kind, cls.name))
        if taken:
            raise PluginError(
                f"{cls.kind} {cls.name!r} of {distribution} is already provided by "
                f"{taken.distribution}: rename one of them"
            )
        self.entries[cls.kind, cls.name] = Entry(cls, distribution, version)

    def _add_family(self, family: Family, distribution: str) -> None:
        for other in self.families:
            shared = sorted(set(family.models) & set(other.models))
            if shared:
                raise PluginError(
                    f"alias {shared[0]!r} of {distribution} is already in family {other.name!r}"
                )
        self.families.append(family)

    def _add_dataset(self, dataset: Dataset, distribution: str) -> None:
        if dataset.name in self.datasets:
            raise PluginError(
                f"data set {dataset.name!r} of {distribution} exists already: rename one of them"
            )
        self.datasets[dataset.name] = dataset
