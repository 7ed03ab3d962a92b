"""A device that is not there: the numbers of its tensors are on the host, and whatever crosses between
the two is told. So what waits for a GPU is found without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

FAR = torch.device("privateuseone:0")  # PyTorch's name for a device that it does not know
CPU, META = torch.device("cpu"), torch.device("meta")
BY_VALUE = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
CHECKS_VALUES = ("multinomial",)  # and has no tag that says so

Tell = Callable[[str], None]
_told: list[Tell] = []


class FarTensor(Tensor):
    """A tensor that says that it is on `FAR`."""

    here: Tensor  # its numbers

    def __new__(cls, here: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=FAR
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        """As every tensor's, which refuses to know a class of ours."""
        return self.cpu().tolist()

    def numpy(self) -> Any:  # type: ignore[override]
        """As every tensor's."""
        return self.cpu().numpy()

    def data_ptr(self) -> int:
        """Where its numbers lie."""
        return self.here.data_ptr()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FarTensor({self.here!r})"


class Dispatch(TorchDispatchMode):
    """Runs every operation, so that tensors can be made on `FAR`."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operation, args, kwargs or {})


@contextmanager
def crossings(tell: Tell) -> Iterator[None]:
    """Have `FAR`. Calls `tell` with "send" or "fetch" when something is copied there or back, where the
    host reads a value, too."""
    _told.append(tell)
    try:
        with Dispatch():
            yield
    finally:
        _told.remove(tell)


def move(module: nn.Module) -> None:
    """Put the weights of a module on `FAR`."""
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(FarTensor(weight.data), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = FarTensor(buffer)


def run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, and tell of what crosses."""
    far: dict[int, FarTensor] = {}
    near: list[Tensor] = []

    def here(each: Any) -> Any:
        if isinstance(each, FarTensor):
            far[id(each.here)] = each
            return each.here
        if isinstance(each, Tensor):
            near.append(each)
        return each

    def there(each: Any) -> Any:  # the tensor that was written to, or one that was made
        if not isinstance(each, Tensor):
            return each
        return far[id(each)] if id(each) in far else FarTensor(each)

    name, device = operation._schema.name.removeprefix("aten::"), kwargs.get("device")
    on_host = _map(here, args)
    named = {key: _map(here, each) for key, each in kwargs.items()}
    if device is not None:
        stays = device.type == FAR.type
        named["device"] = CPU if stays else device
    else:
        stays = isinstance(args[0], FarTensor) if name == "copy_" else bool(far)
    copies = name in ("copy_", "_to_copy")
    if stays and any(copies or each.ndim for each in near):  # else a number goes with the launch
        _tell("send")
    if far and (_depends_on_values(operation, name, args) or not (stays or device == META)):
        _tell("fetch")
    result = operation(*on_host, **named)
    return _map(there, result) if stays else result


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """A value, or each of a list's or tuple's, changed; PyTorch's own `tree_map` takes long."""
    if isinstance(value, list | tuple):
        return type(value)([_map(change, each) for each in value])
    return change(value)


def _depends_on_values(operation: Any, name: str, args: Any) -> bool:
    """Whether the host needs values to know what an operation gives."""
    if "index" in name and isinstance(args[1], list | tuple):  # by masks, whose rows are counted
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return name in CHECKS_VALUES or not BY_VALUE.isdisjoint(operation.tags)


def _tell(what: str) -> None:
    for tell in _told:
        tell(what)


def _empty(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    return FarTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy(source: Tensor, target: Tensor, *_: Any) -> Tensor:
    copied: Tensor = run(torch.ops.aten.copy_.default, (target, source), {})
    return copied


# Tensors of Python's numbers, as `torch.tensor([1], device=FAR)`, are made without dispatch.
torch._register_device_module(FAR.type, backend_registration._DummyBackendModule())
torch._C._acc.register_python_privateuseone_device_guard(backend_registration._DummyDeviceGuard())
library = torch.library.Library("aten", "IMPL")
library.impl("empty_strided", _empty, "PrivateUse1")
library.impl("_copy_from", _copy, "PrivateUse1")
