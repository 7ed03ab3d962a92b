"""Activations of an MLP, times the other half of its product where it is gated, in one launch."""

from __future__ import annotations

from torch import Tensor
from transformers.activations import ACT2FN

from toolkit.runtime.kernels.triton.jit import begin, device_of, jit, overlap, runs, tl

ACTS = ("silu", "swish", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu")
BLOCK = 1024  # numbers of a program


def activate(act: str, gate: Tensor, up: Tensor | None = None) -> Tensor:
    """act(gate) · up, all [M, I]; without `up`, act(gate). Rows may be strided.

    `act` is an activation's name in a config. The kernel computes in float32 and rounds once, the
    plain form after the activation, too.
    """
    if act not in ACTS or not runs(gate):
        return activate_plain(act, gate, up)
    rows, width = gate.shape
    out = gate.new_empty(rows, width)
    with device_of(gate):
        activate_kernel[(rows, -(-width // BLOCK))](
            gate, gate if up is None else up, out, gate.stride(0), width, act=act,
            gated=up is not None, block=BLOCK, num_warps=4, **overlap(gate.device),
        )  # fmt: skip
    return out


def activate_plain(act: str, gate: Tensor, up: Tensor | None = None) -> Tensor:
    """The same in plain PyTorch."""
    out: Tensor = ACT2FN[act](gate)
    return out if up is None else out * up


@jit
def activate_kernel(
    gate_ptr, up_ptr, out_ptr, stride, width, act: tl.constexpr, gated: tl.constexpr,
    block: tl.constexpr, overlaps: tl.constexpr,
):  # fmt: skip
    """Programs (row, block)."""
    begin(overlaps)
    row = tl.program_id(0).to(tl.int64)  # of a prompt, which may be long
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < width
    x = tl.load(gate_ptr + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    y = activated(x, act)
    if gated:
        y = y * tl.load(up_ptr + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + at, y.to(out_ptr.dtype.element_ty), mask=inside)


@jit
def activated(x, act: tl.constexpr):
    """act(x) of float32 numbers; x where there is no act."""
    if act is None:
        y = x
    elif act == "silu" or act == "swish":
        y = x / (1.0 + tl.exp(-x))
    elif act == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif act == "relu":
        y = tl.maximum(x, 0.0)
    else:  # (1 + tanh(u)) / 2 is 1 / (1 + exp(−2u))
        u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        y = x / (1.0 + tl.exp(-2.0 * u))
    return y
