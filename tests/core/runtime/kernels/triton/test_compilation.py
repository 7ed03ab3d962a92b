"""Every kernel compiles for an H100 without one, keeps its numbers in registers, and fits into its
shared memory."""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from toolkit.runtime.kernels.triton import (  # noqa: E402
    activations,
    attention,
    jit,
    linear,
    move_rows,
    norms,
    rotary,
    top_tokens,
    whole_step,
)

if not issubclass(JITFunction, type(attention.split_attention)):
    pytest.skip("Triton interprets in this process", allow_module_level=True)

QUICK_PROFILE = os.environ.get("TOOLKIT_PROFILE", "quick") == "quick"
VOCABULARY = 262144  # Gemma's
SHARED = 232448  # bytes that a program may have, of an H100
KERNELS = set(
    "split_attention merge_splits rotate_and_store_kernel top_of_block top_of_blocks "
    "add_and_norm_kernel skinny_linear move_rows_kernel move_path_kernel activate_kernel "
    "fill_inputs_kernel take_children_kernel judge_kernel".split()
)


class Hopper:
    """A driver of an H100 that is not there."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def compiled(monkeypatch):
    """The kernels that functions launch on CPU tensors: compiled, not run."""
    kernels = []

    def compile_only(self, *args, grid, warmup, run=JITFunction.run, **options):
        kernels.append(run(self, *args, grid=grid, warmup=True, **options))

    monkeypatch.setattr(triton.runtime.driver, "_active", Hopper())
    monkeypatch.setattr(JITFunction, "run", compile_only)
    modules = activations, attention, linear, move_rows, norms, rotary, top_tokens, whole_step
    for module in modules:
        monkeypatch.setattr(module, "runs", lambda tensor: True)
        monkeypatch.setattr(module, "overlap", lambda _: {"overlaps": True, "launch_pdl": True})
    return kernels


def spilled(kernel, folder):
    """Bytes of local memory that a compiled kernel uses."""
    (cubin := folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True).stdout
    return sum(int(size) for size in re.findall(r"(?:LOCAL|STACK):(\d+)", usage))


def integers(*shape):
    return torch.zeros(shape, dtype=torch.int32)


def run_step_kernels(nodes):
    """Those of a whole step's tree of some nodes."""
    step, square = integers(5 * nodes + 5), torch.zeros(nodes, nodes, dtype=torch.int8)
    whole_step.fill_inputs(*integers(3, 999), step[:1], step[1:3], nodes, 50000)
    whole_step.take_children(step, integers(nodes, 17), integers(nodes), 1)
    paths = whole_step.Paths(integers(nodes), integers(nodes), square)
    whole_step.judge(step, integers(nodes, 5), paths)


# D, query heads of a KV head, M, dtype
QUICK = [
    (80, 1, 16, torch.bfloat16),
    (128, 4, 64, torch.float16),
    (256, 4, 64, torch.float32),
]
ALL = [
    (width, groups, rows, dtype)
    for width in (64, 80, 96, 128, 256)
    for groups in (1, 4)
    for rows in (1, 16, 64)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
]


def test_kernels_are_used_where_one_can_be_launched(compiled):
    assert jit.launch_failure.__wrapped__(torch.device("cpu")) is None
    assert [kernel.name for kernel in compiled] == ["probe"]


def test_passes_and_slabs_of_other_sizes_share_kernels(compiled):
    inputs = integers(2048)  # a pass's numbers lie anywhere in it
    for rows, capacity in ((1, 1024), (2, 2048), (16, 1024)):
        cache = torch.zeros(2, 2, capacity, 64, dtype=torch.bfloat16)
        query = torch.zeros(rows, 2, 64, dtype=torch.bfloat16)
        depths, paths = inputs[1 : 1 + rows], inputs[1 + rows : 1 + 33 * rows].view(rows, 32)
        attention.tree_attention(query, *cache, inputs[rows : rows + 1], depths, paths, 0.125)
        move_rows.move_rows(cache, inputs[1:17], inputs[:1])
        move_rows.move_path(cache, rows, [rows, 16 * capacity, 40000, 40001])
    names = Counter(kernel.name for kernel in {id(kernel): kernel for kernel in compiled}.values())
    once = ("split_attention", "merge_splits", "move_rows_kernel", "move_path_kernel")
    assert names == dict.fromkeys(once, 1)


@pytest.mark.parametrize(("width", "groups", "rows", "dtype"), QUICK if QUICK_PROFILE else ALL)
def test_kernels_fit_into_registers_and_shared_memory(compiled, tmp_path, width, groups, rows, dtype):
    cache = torch.zeros(2, 2, 1024, width, dtype=dtype)
    query = torch.zeros(rows, 2 * groups, width, dtype=dtype)
    key = torch.zeros(rows, 2, width, dtype=dtype)
    tables = torch.zeros(2, 64, 16, dtype=dtype)
    attention.tree_attention(
        query, *cache, integers(1), integers(rows), integers(rows, 32), width**-0.5
    )
    rotary.rotate_and_store(query, key, key, *tables, integers(rows), integers(rows), *cache)
    top_tokens.top_tokens(torch.zeros(rows, VOCABULARY, dtype=dtype), 8)
    x, weights = torch.zeros(rows, 2560, dtype=dtype), torch.zeros(2560, 2560, dtype=dtype)
    norms.add_and_norm(x, (x, x), ((x[0], x[0]),) * 2, 1e-5, False)
    linear.SkinnyLinear.of(weights, x[0])(x, "gelu")
    activations.activate("silu", x, x)
    move_rows.move_rows(cache, integers(32), integers(1))
    move_rows.move_path(cache, 9, [2])
    run_step_kernels(rows)
    assert {kernel.name for kernel in compiled} == KERNELS
    assert [kernel.name for kernel in compiled if spilled(kernel, tmp_path)] == []
    assert {k.name: k.metadata.shared for k in compiled if k.metadata.shared > SHARED} == {}


def test_a_kernel_waits_for_those_before_it_before_it_reads_or_writes(compiled):
    """Norms alone read their weights earlier, which no kernel writes."""
    x, weights = torch.zeros(1, 256, dtype=torch.bfloat16), torch.zeros(64, 256).bfloat16()
    cache = torch.zeros(2, 2, 1024, 64, dtype=torch.bfloat16)
    heads, tables = torch.zeros(1, 2, 64, dtype=torch.bfloat16), torch.zeros(2, 64, 16).bfloat16()
    attention.tree_attention(heads, *cache, integers(1), integers(1), integers(1, 32), 0.125)
    rotary.rotate_and_store(heads, heads, heads, *tables, integers(1), integers(1), *cache)
    top_tokens.top_tokens(x, 2)
    norms.add_and_norm(x, (x,), ((x[0], None),), 1e-5, True)
    linear.SkinnyLinear.of(weights)(x, "gelu")
    activations.activate("silu", x, x)
    move_rows.move_rows(cache, integers(32), integers(1))
    move_rows.move_path(cache, 9, [2])
    run_step_kernels(5)
    assert {kernel.name for kernel in compiled} == KERNELS
    for kernel in compiled:
        before, waits, after = kernel.asm["ptx"].partition("griddepcontrol.wait")
        early = re.findall(r"(?:ld|st|atom|red|cp\.async)\S*\.global", before)
        assert waits, kernel.name
        assert len(early) == (kernel.name == "add_and_norm_kernel"), kernel.name
        assert re.search(r"(?:ld|st|cp\.async)\S*\.global", after), kernel.name
