"""Kernels that multiply rows by a weight: PyTorch's, oneDNN's, and ours in C and in Triton."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from toolkit.runtime.kernels import native, structs
from toolkit.runtime.kernels.triton import jit
from toolkit.runtime.kernels.triton.linear import SkinnyLinear
from toolkit.runtime.machine.memory import in_large_pages

PACKABLE = (torch.float32, torch.bfloat16)


@frozen(eq=False)
class Stock:
    """PyTorch's own linear."""

    weight: Tensor  # [out, in]
    bias: Tensor | None
    name: ClassVar[str] = "PyTorch's own"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Stock:
        return cls(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Linears of one kind are computed alike."""
        return "stock", self.weight.shape, self.weight.stride(), self.bias is None

    @property
    def like(self) -> Tensor:
        """A weight [out, in] of the same shape, strides and dtype; its values mean nothing."""
        return self.weight


@frozen(eq=False)
class Packed:
    """oneDNN's linear on a weight that it has reordered for this CPU."""

    weight: Tensor  # opaque
    bias: Tensor | None
    name: ClassVar[str] = "prepacked by oneDNN"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Packed:
        """Reorder a weight [out, in] into a copy."""
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return cls(packed, bias)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Linears of one kind are computed alike."""
        return "packed", self.weight.shape, self.bias is None

    @property
    def like(self) -> Tensor:
        """A weight [out, in] of the same shape and dtype; its values mean nothing."""
        return torch.empty(self.weight.shape, dtype=self.weight.dtype)


@frozen(eq=False)
class Blocked:
    """Our own linear in C, on a weight in blocks of outputs; `kernels.h` describes the layout."""

    weight: Tensor  # fp32 [blocks, in, 32], bf16 [blocks, in / 2, 2, 16, 2]
    bias: Tensor | None  # fp32 [out]
    inputs: int
    outputs: int
    kernels: native.Library  # used while kernels are switched off: nothing else reads this layout
    name: ClassVar[str] = "our own in C"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Blocked:
        """Copy a weight [out, in] into blocks."""
        outputs, inputs = weight.shape
        if weight.dtype is torch.float32:
            padded = pad(weight, (0, 0, 0, -outputs % structs.OUTPUTS))
            blocks = padded.view(-1, structs.OUTPUTS, inputs).transpose(1, 2)
        else:
            padded = pad(weight, (0, -inputs % structs.INPUTS, 0, -outputs % structs.OUTPUTS))
            blocks = padded.view(-1, 2, structs.OUTPUTS // 2, padded.shape[1] // 2, 2)
            blocks = blocks.permute(0, 3, 1, 2, 4)
        bias = None if bias is None else bias.to(torch.float32, copy=True)
        return cls(in_large_pages(blocks), bias, inputs, outputs, native.best_library())

    def __call__(self, x: Tensor) -> Tensor:
        return (native.library() or self.kernels).linear(self.struct, x)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Linears of one kind are computed alike."""
        return "blocked", self.inputs, self.outputs, self.bias is None

    @property
    def like(self) -> Tensor:
        """A weight [out, in] of the same shape and dtype; its values mean nothing."""
        return torch.empty(self.outputs, self.inputs, dtype=self.weight.dtype)

    @property
    def struct(self) -> structs.Linear:
        """The C kernels' view of it."""
        return structs.Linear(
            self.weight.data_ptr(),
            structs.address(self.bias),
            self.inputs,
            self.outputs,
            structs.DTYPES[self.weight.dtype],
        )


Kernel = Stock | Packed | Blocked | SkinnyLinear


@frozen(eq=False)
class SideBySide:
    """Several linears of one input; their outputs are concatenated."""

    parts: tuple[Kernel, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


def kernels_for(module: Any) -> list[type[Kernel]]:
    """The kernels that can multiply by the weights of a loaded module; PyTorch's first."""
    mixed = {part.dtype for part in module.parameters()} != {module.dtype}
    if mixed:
        return [Stock]
    if module.device.type == "cuda" and module.dtype.itemsize == 2:
        return [Stock] if jit.why_not(module.device, module.dtype) else [Stock, SkinnyLinear]
    if module.device.type != "cpu" or module.dtype not in PACKABLE:
        return [Stock]
    ours: list[type[Kernel]] = [] if native.library() is None else [Blocked]
    theirs: list[type[Kernel]] = [Packed] if onednn_packs(module.dtype) else []
    return [Stock, *theirs, *ours]


@cache
def onednn_packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a linear of this dtype for this CPU; in bf16 that depends on the CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        Packed.of(torch.zeros(8, 8, dtype=dtype), None)(torch.zeros(1, 8, dtype=dtype))
    except RuntimeError:
        return False
    return True


def is_linear(module: Any) -> bool:
    """Whether a module is a plain linear, and no subclass or wrapper of one."""
    return type(module) in (nn.Linear, Conv1D)


def weight_of(module: Any) -> Tensor:
    """A linear's weight as [out, in]; GPT-2 stores it transposed."""
    weight: Tensor = module.weight.detach()
    return weight.t() if isinstance(module, Conv1D) else weight


def bias_of(module: Any) -> Tensor | None:
    """A linear's bias [out], where it has one."""
    return None if module.bias is None else module.bias.detach()
