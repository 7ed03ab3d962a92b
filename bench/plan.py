"""The plan of a bench: arms, prompts and settings, read from TOML or from options."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import cattrs
import tomli_w
from attrs import Factory, asdict, field, fields_dict, frozen
from attrs.validators import deep_iterable, ge, in_, min_len

from toolkit import Sampling, ToolkitError
from toolkit.words import quote

Recorded = Literal["steps", "nodes"]


def _require_distinct(_: Any, attribute: Any, values: list[Any]) -> None:
    """An attrs validator: no value twice, or two requests could not be told apart."""
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise ValueError(f"{attribute.name!r} has {twice[0]!r} twice: give it once")


def _require_values(_: Any, attribute: Any, grid: dict[str, list[Any]]) -> None:
    """An attrs validator: every option of a grid has values, and none twice."""
    for name, values in grid.items():
        if not values:
            raise ValueError(f"the grid has no value for {name!r}: write {name} = [2, 3]")
        _require_distinct(None, attribute.evolve(name=name), values)


def _require_device(_: Any, attribute: Any, value: str) -> None:
    """An attrs validator: the devices of a pool."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError(f"{attribute.name!r} is auto, cpu, cuda or a GPU as cuda:1, not {value!r}")


POSITIVE: Any = [min_len(1), deep_iterable(ge(1)), _require_distinct]


@frozen
class Tune:
    """An arm to tune on held-out prompts: its name, and the values to try of its options."""

    arm: str
    grid: dict[str, list[int | float | str | bool]] = field(validator=[min_len(1), _require_values])
    prompts: int = field(default=4, validator=ge(1))


@frozen
class Plan:
    """What to measure. Every field is a key of the TOML file."""

    arms: list[str] = field(validator=min_len(1))
    target: str | None = None
    datasets: list[str] = field(
        factory=lambda: ["stories"], validator=[min_len(1), _require_distinct]
    )
    prompts: int = field(default=10, validator=ge(1))
    rounds: int = field(default=2, validator=ge(1))
    prompt_tokens: list[int] = field(factory=lambda: [256], validator=POSITIVE)
    max_new_tokens: list[int] = field(factory=lambda: [128], validator=POSITIVE)
    warmup: int = field(default=2, validator=ge(1))
    seed: int = field(default=0, validator=ge(0))
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    ignore_eos: bool = False
    record: list[Recorded] = Factory(list)
    device: str = field(default="auto", validator=_require_device)
    dtype: str = "auto"
    executor: str = field(default="auto", validator=in_(("auto", "module", "functional")))
    tune: list[Tune] = Factory(list)
    plugins: list[str] = Factory(list)

    @classmethod
    def of(cls, data: dict[str, Any], origin: str) -> Plan:
        """A plan from a dict. Raises `ToolkitError`, which names the key and its type."""
        strange = [key for key in data if key not in fields_dict(cls)]
        if strange:
            raise ToolkitError(
                f"{origin} has no key {strange[0]!r}; a plan has: {', '.join(fields_dict(cls))}"
            )
        if "arms" not in data:
            raise ToolkitError(f'{origin} names no arms: write arms = ["drafter=model"]')
        try:
            plan = _converter.structure(data, cls)
        except Exception as error:
            problem = "; ".join(
                cattrs.transform_error(error, path=origin, format_exception=_format)
            )
            raise ToolkitError(f"the plan cannot be used: {problem}") from error
        Sampling.settle(plan.sampling)  # which checks its settings
        return plan

    @classmethod
    def read(cls, name: str, changes: dict[str, Any] | None = None) -> Plan:
        """A plan from a file or from this package, by its name, with some values replaced."""
        if Path(name).suffix == ".toml":
            text = _read_file(name)
        else:
            protocols = read_protocols()
            if name not in protocols:
                raise ToolkitError(
                    f"no plan called {quote(name)}: give a .toml file, or one of {', '.join(protocols)}"
                )
            text = protocols[name]
        return cls.loads(text, f"plan {name}", changes)

    @classmethod
    def loads(cls, text: str, origin: str, changes: dict[str, Any] | None = None) -> Plan:
        """A plan from TOML, with some values replaced. Raises `ToolkitError`."""
        try:
            data = tomllib.loads(text)
        except ValueError as error:
            raise ToolkitError(f"{origin} is not TOML: {error}") from error
        return cls.of({**data, **(changes or {})}, origin)

    @property
    def sampling(self) -> dict[str, float]:
        """The settings that replace the target's own, for every arm."""
        names = ("temperature", "top_k", "top_p", "min_p")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def toml(self) -> str:
        data = {key: value for key, value in asdict(self).items() if value is not None}
        return tomli_w.dumps(data)


def _read_file(name: str) -> str:
    """The text of a plan's file. Raises `ToolkitError`."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ToolkitError(
            f"no plan {name}: `toolkit bench init {name}` writes one to start from"
        ) from error
    except UnicodeDecodeError as error:
        raise ToolkitError(f"plan {name} is not UTF-8 ({error}): save it as UTF-8") from error
    except OSError as error:
        raise ToolkitError(f"plan {quote(name)} cannot be read: {error.strerror}") from error


def read_protocols() -> dict[str, str]:
    """The plans that ship, as TOML by name."""
    folder = files(__package__) / "protocols"
    found = [path for path in folder.iterdir() if path.name.endswith(".toml")]
    return {
        p.name.removesuffix(".toml"): p.read_text(encoding="utf-8") for p in sorted(found, key=str)
    }


def _format(error: BaseException, kind: type | None) -> str:
    """The message of a validator or converter, where it has one."""
    if isinstance(error, (TypeError, ValueError)) and error.args:
        return str(error.args[0])
    return cattrs.v.format_exception(error, kind)


def _require_int(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number is expected, not {value!r}")
    return value


def _require_str(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is expected, not {value!r}")
    return value


def _require_bool(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"true or false is expected, not {value!r}")
    return value


_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_structure_hook(int, _require_int)
_converter.register_structure_hook(str, _require_str)
_converter.register_structure_hook(bool, _require_bool)
_converter.register_structure_hook(int | float | str | bool, lambda value, _: value)
