"""The stage `kernels` of the GPU bench."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from gpu_arms import VOCABULARY
from gpu_results import Results
from gpu_timing import microseconds

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LINEARS = {  # inputs and outputs of a layer's products
    "2.8b qkv": (2560, 7680), "2.8b out": (2560, 2560), "2.8b up": (2560, 10240),
    "2.8b down": (10240, 2560), "8b qkv": (4096, 6144), "8b gate and up": (4096, 28672),
    "8b down": (14336, 4096),
}  # fmt: skip
HEADS = {"32 heads of 80": (32, 32, 80), "32 heads of 128, 8 of K/V": (32, 8, 128)}



def run_kernels(results: Results) -> None:
    """Triton kernels against their plain forms, cuBLAS beside the skinny linear, and their bits."""
    import torch

    from toolkit.runtime.kernels.triton import attention, norms, rotary, top_tokens

    device, rows = results.device, 16
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    length = torch.tensor([900], dtype=torch.int32, device=device)
    path = torch.arange(900, 964, dtype=torch.int32, device=device).expand(rows, -1)
    for name, dtype in DTYPES.items():
        draw: Any = partial(torch.randn, device=device, dtype=getattr(torch, dtype))
        cache, qkv, angles = draw(2, 32, 1024, 80), draw(3, rows, 32, 80), draw(2, 128, 20)
        x, logits = draw(3, rows, 2560), draw(rows, VOCABULARY)
        pairs: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
            "tree attention": (
                attention.tree_attention,
                attention.tree_attention_plain,
                (qkv[0], *cache, length, slots, torch.minimum(path, length + slots[:, None]), 0.1),
            ),
            "rotation and KV write": (
                rotary.rotate_and_store,
                rotary.rotate_and_store_plain,
                (*qkv, *angles, slots, slots, *cache),
            ),
            "two additions and a norm": (
                lambda *given: norms.add_and_norm(*given)[1],
                lambda *given: norms.add_and_norm_plain(*given)[1],
                (x[0], (x[1], x[2]), ((x[0, 0], x[1, 0]),), 1e-5, False),
            ),
            "top 2 of 50304": (
                lambda *given: top_tokens.top_tokens(*given)[0],
                lambda *given: top_tokens.top_tokens_plain(*given)[0],
                (logits, 2),
            ),
        }
        for what, (kernel, plain, given) in pairs.items():
            with results.surviving(what):
                expected = plain(*given).double()
                error = float((kernel(*given).double() - expected).norm() / expected.norm())
                results.add(what, "difference from plain", error, dtype=name)
                if name == results.dtype:
                    time = microseconds(partial(kernel, *given), device)
                    results.add(what, "time", time, "µs", f"{rows} rows", name)
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
    for rows, (cached, room) in product((1, 16, 64), ((100, 1024), (500, 1024), (1900, 2048))):
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
        whole = linears[0](x)
        same = [m for m in (1, 2, 8, 9, 16, 17, 32, 48) if linears[0](x[:m]).equal(whole[:m])]
        note = f"counts of rows with the bits of 64: {same}"
        results.add(f"{what}, {kind}", "bits", None, note=note, dtype="bf16")


def _call_each(linears: list[Any], x: Any) -> None:
    for linear in linears:
        linear(x)
