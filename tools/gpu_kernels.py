"""The stage `kernels` of the GPU bench."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from gpu_results import Results
from gpu_timing import microseconds

LINEARS = {  # inputs and outputs of a layer's products
    "2.8b qkv": (2560, 7680), "2.8b out": (2560, 2560), "2.8b up": (2560, 10240),
    "2.8b down": (10240, 2560), "8b qkv": (4096, 6144), "8b gate and up": (4096, 28672),
    "8b down": (14336, 4096),
}  # fmt: skip
HEADS = {"32 heads of 80": (32, 32, 80), "32 heads of 128, 8 of K/V": (32, 8, 128)}
COUNTS = (1, 2, 8, 9, 16, 17, 32, 48)  # of rows, whose bits are compared with those of 64


def run_kernels(results: Results) -> None:
    """Triton kernels against their plain forms, cuBLAS beside the skinny linear, and their bits."""
    import torch
    from gpu_checks import DTYPES, list_checks, list_step_checks, note_difference

    torch.manual_seed(0)
    checks = [(results.dtype, check) for check in list_step_checks(results.device)]
    for dtype in DTYPES:
        every = dtype == results.dtype
        checks += [(dtype, each) for each in list_checks(results.device, dtype, all_heads=every)]
    for dtype, check in checks:
        with results.surviving(check.what):
            note_difference(results, check.what, check.difference(), dtype)
            if dtype == results.dtype:
                time = microseconds(partial(check.kernel, *check.given), results.device)
                results.add(check.what, "time", time, "µs", dtype=dtype)
    for what, sizes in HEADS.items():
        with results.surviving(f"attention, {what}"):
            _measure_attention(results, what, *sizes)
    for what, (inputs, outputs) in list(LINEARS.items())[: 2 if results.rehearse else None]:
        with results.surviving(what):
            _measure_linear(results, what, inputs, outputs)


def _measure_attention(
    results: Results, what: str, heads: int, kv_heads: int, width: int
) -> None:
    """Our attention, and PyTorch's under a mask of the whole slab, as graphs hold either."""
    import torch

    from toolkit.runtime.compute.attention import masked_attention
    from toolkit.runtime.compute.cudnn import without_cudnn
    from toolkit.runtime.kernels.triton.attention import tree_attention
    from toolkit.runtime.kv.attention_config import AttentionConfig

    device, config = results.device, AttentionConfig(width**-0.5)
    draw: Any = partial(torch.randn, device=device, dtype=torch.bfloat16)
    counts = (1,) if results.rehearse else (1, 16, 64)
    for rows, (cached, room) in product(counts, ((100, 1024), (500, 1024), (1900, 2048))):
        query, (keys, values) = draw(rows, heads, width), draw(2, kv_heads, room, width)
        length = torch.tensor([cached], dtype=torch.int32, device=device)
        depths = torch.arange(rows, dtype=torch.int32, device=device)
        path = torch.arange(cached, cached + 64, dtype=torch.int32, device=device)
        paths = torch.minimum(path, length + depths[:, None])
        mask = torch.arange(room, device=device) <= length + depths[:, None]
        ways = {
            "ours": partial(
                tree_attention, query, keys, values, length, depths, paths, config.scaling
            ),
            "PyTorch's": partial(masked_attention, query, keys, values, mask, config),
        }
        for name, way in ways.items():
            with without_cudnn:
                time = microseconds(way, device)
            note = f"{cached} cached rows in a slab of {room}"
            results.add(f"attention, {what}, {rows} rows, {name}", "time", time, "µs", note, "bf16")


def _measure_linear(results: Results, what: str, inputs: int, outputs: int) -> None:
    """GB/s of weights, and whether a row has the same bits in passes of other sizes."""
    import torch
    from gpu_checks import find_difference, note_difference
    from torch.nn import functional

    from toolkit.runtime.kernels.triton.linear import SkinnyLinear

    count = 1 if results.rehearse else max(1, 300_000_000 // (2 * inputs * outputs))  # beyond caches
    shape = count, outputs, inputs
    weights = torch.randn(shape, device=results.device, dtype=torch.bfloat16) * inputs**-0.5
    kinds: dict[str, list[Callable[[Any], Any]]] = {
        "cuBLAS": [partial(functional.linear, weight=weight) for weight in weights],
        "skinny": [SkinnyLinear.of(weight) for weight in weights],
    }
    x = torch.randn(64, inputs, device=results.device, dtype=torch.bfloat16)
    for kind, linears in kinds.items():
        for rows in (1, 16, 64):
            part = x[:rows].contiguous()
            calls = partial(_call_each, linears, part)
            time = microseconds(calls, results.device, max(1, 20 // count))
            rate = weights.nbytes / time / 1e3
            results.add(f"{what}, {rows} rows, {kind}", "weights read", rate, "GB/s", dtype="bf16")
        ours = kind == "skinny"
        if ours:
            expected = functional.linear(x.double(), weights[0].double())
            difference = find_difference([linears[0](x)], [expected])
            note_difference(results, f"{what}, {kind}", difference, "bf16")
        note_bits(results, f"{what}, {kind}", linears[0], x, keeps=ours and not results.rehearse)


def note_bits(results: Results, what: str, linear: Any, x: Any, *, keeps: bool) -> None:
    """Which smaller counts of rows give the bits of 64. A linear that keeps them fails at any other."""
    whole = linear(x)
    same = [count for count in COUNTS if linear(x[:count]).equal(whole[:count])]
    failed = keeps and same != list(COUNTS)
    note = f"counts of rows with the bits of 64: {same}"
    results.add(what, "failed" if failed else "bits", None, note=note, dtype="bf16")


def _call_each(linears: list[Any], x: Any) -> None:
    for linear in linears:
        linear(x)
