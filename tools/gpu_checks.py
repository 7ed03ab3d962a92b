"""Every Triton kernel beside its plain form in float64, on numbers of models' sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from attrs import frozen
from gpu_results import Results
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from toolkit.runtime.kernels.triton import (
    activations,
    attention,
    move_rows,
    norms,
    rotary,
    top_tokens,
    whole_step,
)
from toolkit.runtime.kernels.triton.linear import SkinnyLinear

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BOUNDS = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-3}  # TF32 would be off by 3e-4
ROWS, CAPACITY, CACHED, DEEPEST = 16, 1024, 900, 64
DIFFERENCE = "difference from plain"


@frozen
class Check:
    """A kernel and its plain form, and what both are given."""

    what: str
    kernel: Callable[..., Any]
    plain: Callable[..., Any]
    given: tuple[Any, ...]
    written: tuple[int, ...] = ()  # of what is given, by index

    def difference(self) -> float:
        """Of what both return and write: see `find_difference`."""
        wide = tree_map(_widen, self.given)
        return find_difference(self._run(self.kernel, self.given), self._run(self.plain, wide))

    def _run(self, form: Callable[..., Any], given: tuple[Any, ...]) -> list[Tensor]:
        given = tuple(x.clone() if i in self.written else x for i, x in enumerate(given))
        made = form(*given)
        return [x for x in tree_leaves(made) if x is not None] + [given[i] for i in self.written]


def _widen(part: Any) -> Any:
    return part.double() if isinstance(part, Tensor) and part.is_floating_point() else part


def find_difference(got: list[Tensor], expected: list[Tensor]) -> float:
    """The greatest error of a row of several tensors, as a share of its norm; infinite where integers
    differ."""
    errors = [0.0]
    for ours, plain in zip(got, expected, strict=True):
        if plain.is_floating_point():
            wide = plain.double()
            rows = (ours.double() - wide).norm(dim=-1) / wide.norm(dim=-1)
            errors.append(float(rows.max()))
        elif not ours.equal(plain):
            errors.append(float("inf"))
    return max(errors, key=lambda error: (error != error, error))  # NaN is the worst


def note_difference(results: Results, what: str, difference: float, dtype: str) -> None:
    """Keep a difference; beyond the bound of the dtype the kernel failed."""
    if difference <= BOUNDS[dtype]:
        results.add(what, DIFFERENCE, difference, dtype=dtype)
    else:
        note = f"its plain form differs by {difference:.2g}, at most {BOUNDS[dtype]:g} is allowed"
        results.add(what, "failed", None, note=note, dtype=dtype)


def list_checks(device: str, dtype: str, *, all_heads: bool) -> list[Check]:
    """The checks of kernels that compute in a dtype; with `all_heads`, attention of more head sizes."""
    draw: Any = partial(torch.randn, device=device, dtype=DTYPES[dtype])
    x, gate = draw(3, ROWS, 2560), draw(2, ROWS, 2 * 2560)[:, :, :2560]  # of a wider product
    qkv, wide = draw(3, ROWS, 32, 80), draw(ROWS, 48, 128)
    grouped = wide[:, :32], wide[:, 32:40], wide[:, 40:]
    slots = CACHED + torch.arange(ROWS, dtype=torch.int32, device=device)
    pairs = (x[0, 0], x[1, 0]), (x[2, 0], x[0, 1])
    path = torch.tensor([905, 906, 910], dtype=torch.int32, device=device)
    heads = {"32 heads of 80": (32, 32, 80)}
    if all_heads:
        heads |= {"8 heads of 64": (8, 8, 64), "12 heads of 96, 4 of K/V": (12, 4, 96)}
    return [
        *(check_attention(f"attention, {what}", draw, *sizes) for what, sizes in heads.items()),
        check_attention("attention, window and hidden rows", draw, 32, 8, 128, hides=True),
        Check(
            "rotation and KV write", rotary.rotate_and_store, rotary.rotate_and_store_plain,
            (*qkv, *draw(2, 1024, 20), slots, slots, *draw(2, 32, CAPACITY, 80)), (7, 8),
        ),
        Check(
            "rotation and KV write, grouped", rotary.rotate_and_store, rotary.rotate_and_store_plain,
            (*grouped, *draw(2, 1024, 128), slots, slots, *draw(2, 8, CAPACITY, 128)), (7, 8),
        ),
        Check(
            "two additions and a norm", norms.add_and_norm, norms.add_and_norm_plain,
            (x[0], (x[1], x[2]), pairs[:1], 1e-5, False),
        ),
        Check(
            "an addition and two RMS norms", norms.add_and_norm, norms.add_and_norm_plain,
            (x[0], (x[1],), ((x[0, 0], None), (x[1, 0], None)), 1e-5, True),
        ),
        Check(
            "top 2 of 50304", top_tokens.top_tokens, top_tokens.top_tokens_plain,
            (draw(ROWS, 50304), 2),
        ),
        *(
            Check(
                f"activation {act}, gated", activations.activate, activations.activate_plain,
                (act, *gate),
            )
            for act in ("silu", "gelu", "gelu_new", "relu")
        ),
        check_linear("linear, bias and activation", draw, ROWS, 2560, 2560, "gelu"),
        check_linear("linear, uneven sizes", draw, 64, 600, 100),
        Check(
            "rows moved", move_rows.move_rows, move_rows.move_rows_plain,
            (draw(4, 32, CAPACITY, 80), path, slots[:1]), (0,),
        ),
        Check(
            "a path moved", move_rows.move_path, move_rows.move_path_plain,
            (draw(4, 32, CAPACITY, 80), CACHED, [0, 2, 3, *range(5, 30, 2)]), (0,),
        ),
    ]  # fmt: skip


def check_attention(
    what: str, draw: Any, heads: int, kv_heads: int, width: int, *, hides: bool = False
) -> Check:
    """Attention of a binary tree; with `hides`, a window and a policy hide rows from it."""
    query, cache = draw(ROWS, heads, width), draw(2, kv_heads, CAPACITY, width)
    paths: list[list[int]] = []
    for node in range(ROWS):
        paths.append([*(paths[(node - 1) // 2] if node else []), CACHED + node])
    depths = [len(path) - 1 for path in paths]
    full = [path + path[-1:] * (DEEPEST - len(path)) for path in paths]
    integers = partial(torch.tensor, dtype=torch.int32, device=query.device)
    given: tuple[Any, ...]
    given = query, *cache, integers([CACHED]), integers(depths), integers(full), width**-0.5
    if hides:
        visible = torch.rand(kv_heads, ROWS, CAPACITY, device=query.device) < 0.5
        visible[:, range(ROWS), [path[-1] for path in paths]] = True
        given = *given, 300, visible
    return Check(what, attention.tree_attention, attention.tree_attention_plain, given)


def check_linear(
    what: str, draw: Any, rows: int, inputs: int, outputs: int, act: str | None = None
) -> Check:
    """A skinny linear, with a bias if it has an activation."""
    weight = draw(outputs, inputs) * inputs**-0.5
    bias = draw(outputs) if act else None

    def plain(x: Tensor, act: str | None) -> Tensor:
        made = functional.linear(x, weight.double(), None if bias is None else bias.double())
        return activations.activate_plain(act, made) if act else made

    return Check(what, SkinnyLinear.of(weight, bias), plain, (draw(rows, inputs), act))


def list_step_checks(device: str) -> list[Check]:
    """The checks of what a whole step does between its passes, for a binary tree."""
    integers = partial(torch.tensor, dtype=torch.int32, device=device)
    parents = [max(0, node - 1) // 2 for node in range(ROWS)]
    depths, on_path = [0] * ROWS, torch.eye(ROWS, dtype=torch.bool)
    for node in range(1, ROWS):
        depths[node] = depths[parents[node]] + 1
        on_path[node] |= on_path[parents[node]]
    paths = whole_step.Paths(
        integers(parents), integers(depths), (~on_path).to(device, torch.int8)
    )
    top = top_tokens.packed_top_tokens(torch.randn(ROWS, 50304, device=device), 2)
    step = torch.arange(5 * ROWS + 5, dtype=torch.int32, device=device)
    for node in (2, 5, 11):  # which the target chooses
        step[2 + node] = top[parents[node], 2]
    pass_of = torch.arange(1 + ROWS * 68, dtype=torch.int32, device=device)
    numbers = pass_of.clone(), pass_of, pass_of % 2, integers([CACHED]), step[2 : 2 + ROWS // 2]
    return [
        Check(
            "inputs of a pass", whole_step.fill_inputs, whole_step.fill_inputs_plain,
            (*numbers, ROWS, 5), (0,),
        ),
        Check(
            "children of a level", whole_step.take_children, whole_step.take_children_plain,
            (step, top, integers([1, 2, 5, 30]), 3), (0,),
        ),
        Check("judgement", whole_step.judge, whole_step.judge_plain, (step, top, paths), (0,)),
    ]  # fmt: skip

