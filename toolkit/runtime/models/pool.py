"""Pool: the models of one process, each loaded once and shared by all requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from attrs import define, field

from toolkit.errors import ModelError
from toolkit.progress import working
from toolkit.runtime.kernels.build import isas
from toolkit.runtime.models.locate import Location, locate, named_target

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from transformers import PreTrainedModel

    from toolkit.costs import Costs
    from toolkit.interfaces import Translation
    from toolkit.runtime.models.borrow import ModuleState
    from toolkit.runtime.models.load import FoundModel, LoadedModel

DEVICES = ("auto", "cpu", "cuda")
EXECUTORS = ("auto", "module", "functional")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}


@define(eq=False)
class Pool:
    """Models by name, on one device and in one dtype.

    `device`: auto (CUDA where there is one), cpu, cuda, or one of several GPUs, as cuda:1. `dtype`:
    fp32, bf16, fp16, fp64, or auto, fp32 on CPU and the checkpoint's own on CUDA. `executor`: module
    runs the transformers module, functional our description of its family, auto the description where
    there is one. On CUDA auto also runs steps whose trees have one shape as one graph each.
    `modules` are models in memory by the names that specs use; they keep their device and dtype.
    `costs` replace measured costs, for experiments that must be repeatable. Dicts are copied.
    """

    device: str = "auto"
    dtype: str = "auto"
    executor: str = "auto"
    aliases: dict[str, str] = field(factory=dict)
    modules: dict[str, PreTrainedModel] = field(factory=dict)
    costs: Costs | None = None
    _locations: dict[str, Location] = field(factory=dict, init=False)
    _found: dict[str, FoundModel] = field(factory=dict, init=False)
    _loaded: dict[str, LoadedModel] = field(factory=dict, init=False)
    _states: dict[str, ModuleState] = field(factory=dict, init=False)  # of `modules`, when prepared
    _translations: dict[tuple[str, str], Translation | None] = field(factory=dict, init=False)
    measured: dict[str, Costs] = field(factory=dict, init=False)  # by fingerprint

    def __attrs_post_init__(self) -> None:
        self.aliases, self.modules = dict(self.aliases), dict(self.modules)
        name, colon, number = self.device.partition(":")
        if self.device not in DEVICES and not (name == "cuda" and number.isdecimal()):
            raise ModelError(
                f"no device {self.device!r}: there are {', '.join(DEVICES)}, and cuda:1 for the second "
                f"GPU"
            )
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise ModelError(f"no dtype {self.dtype!r}: there are auto, {', '.join(DTYPES)}")
        if self.executor not in EXECUTORS:
            raise ModelError(f"no executor {self.executor!r}: there are {', '.join(EXECUTORS)}")
        if name == "cuda" and not _cuda_is_here():
            raise ModelError(
                "no cuda device is here: use --device cpu, or auto to take what there is"
            )
        if colon and int(number) >= _gpus():
            raise ModelError(
                f"no device {self.device!r} is here: GPUs count from cuda:0 to cuda:{_gpus() - 1}"
            )
        isas()  # refuses a wrong TOOLKIT_ISA

    @property
    def torch_device(self) -> torch.device:
        import torch

        if self.device == "auto":
            return torch.device("cuda" if _cuda_is_here() else "cpu")
        return torch.device(self.device)

    def records_steps(self, names: Iterable[str]) -> bool:
        """Whether whole steps of these models may run as CUDA graphs. Modules in memory stay where they
        are."""
        held = [self.modules.get(name) for name in names]
        devices = {self.torch_device if module is None else module.device for module in held}
        return self.executor == "auto" and {device.type for device in devices} == {"cuda"}

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype to load in; None for the checkpoint's own."""
        import torch

        if self.dtype == "auto":
            return torch.float32 if self.torch_device.type == "cpu" else None
        dtype: torch.dtype = getattr(torch, DTYPES[self.dtype])
        return dtype

    def hold(self, module: PreTrainedModel) -> str:
        """Add a module in memory; returns its name: its class's, numbered if that is taken."""
        base, count = type(module).__name__, 1
        name = base
        while self.modules.get(name, module) is not module:
            count += 1
            name = f"{base}-{count}"
        self.modules[name] = module
        return name

    def locate(self, name: str) -> Location | None:
        """Where a model is; None for a module in memory. Raises `ModelError`."""
        if name in self.modules:
            return None
        if name not in self._locations:
            self._locations[name] = locate(name, self.aliases)
        return self._locations[name]

    def named_target(self, drafter: str) -> str | None:
        """The target that a drafter's config names; None: it names none."""
        location = self.locate(drafter)
        return named_target(location) if location else None

    def find(self, name: str) -> FoundModel | LoadedModel:
        """A model's config and tokenizer, or the model if it is in memory. Raises `ModelError`."""
        location = self.locate(name)
        if location is None:
            return self.load(name)
        if name not in self._found:
            with working(f"Looking at {name}"):
                from toolkit.runtime.models.load import find

                self._found[name] = find(location, self.executor)
        return self._found[name]

    def load(self, name: str) -> LoadedModel:
        """A model with its weights, loaded on first use. Raises `ModelError`."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> LoadedModel:
        from toolkit.runtime.models.borrow import state_of
        from toolkit.runtime.models.load import load, prepare

        if name not in self.modules:
            found = cast("FoundModel", self.find(name))
            return load(found, self.torch_device, self.torch_dtype, self.executor)
        module = self.modules[name]
        model = prepare(name, module, executor=self.executor)
        self._states[name] = state_of(module)
        return model

    def translation(self, target: str, drafter: str) -> Translation | None:
        """How to translate between the tokens of two models; None where they are the same, or where a
        model has no tokenizer."""
        from toolkit.runtime.models.translation import translation_between

        key = target, drafter
        if key not in self._translations:
            self._translations[key] = translation_between(self.find(target), self.find(drafter))
        return self._translations[key]

    def forget_changed(self, name: str) -> None:
        """Forget a module in memory that its owner has changed since it was loaded; the next `load`
        prepares it again."""
        from toolkit.runtime.models.borrow import state_of

        if name in self._states and self._states[name] != state_of(self.modules[name]):
            del self._loaded[name], self._states[name]

    def revision(self, name: str) -> str | None:
        """The revision of a model's weights; None for a module in memory."""
        from toolkit.runtime.models.load import FoundModel

        found = None if name in self.modules else self.find(name)
        return found.revision if isinstance(found, FoundModel) else None

    def origin(self, name: str) -> str:
        """Where a model comes from: a folder, a hub id, this package or memory."""
        if name in self.modules:
            return "in memory"
        place = self.aliases.get(name, name)
        return "in this package" if place.startswith("package:") else place


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _cuda_is_here() -> bool:
    import torch

    return torch.cuda.is_available()
