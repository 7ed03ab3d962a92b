"""Where Triton is installed and cannot work, PyTorch does."""

import ast
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from toolkit.runtime.kernels.triton import jit
from toolkit.runtime.machine import disk


class Fails:
    def __init__(self, error):
        self.error = error

    def __getitem__(self, grid):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
        AssertionError("libcuda.so cannot found!\nPlease make sure GPU is set up"),
        OSError(),
    ],
    ids=str,
)
def test_a_kernel_that_cannot_be_launched_is_no_error(monkeypatch, caplog, error):
    monkeypatch.setattr(disk, "_said", {})
    monkeypatch.setattr(jit, "probe", Fails(error))
    with caplog.at_level(logging.WARNING):
        why = jit.launch_failure.__wrapped__(torch.device("cpu"))
    assert why == f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    assert [record.getMessage() for record in caplog.records] == [
        f"Our kernels are not used on cpu: {why}"
    ]


GPU = torch.device("cuda:0")


@pytest.mark.parametrize(
    ("device", "dtype", "failure", "why"),
    [
        (GPU, torch.bfloat16, None, None),
        (GPU, torch.bfloat16, "no C compiler", "no C compiler"),
        (GPU, torch.double, None, "ours compute in float32"),
        (torch.device("cpu"), torch.float, None, "ours in Triton are for CUDA"),
    ],
    ids=str,
)
def test_kernels_run_where_they_can_be_launched(monkeypatch, device, dtype, failure, why):
    monkeypatch.setattr(jit, "triton", object())
    monkeypatch.setattr(jit, "INTERPRETED", False)
    monkeypatch.setattr(jit, "launch_failure", lambda _: failure)
    assert jit.why_not(device, dtype) == why
    assert jit.runs(SimpleNamespace(device=device, dtype=dtype)) == (why is None)


def launches(tree):
    """Launches in a source, as `kernel[(grid,)](…)`, by whether it is on a tensor's GPU."""
    found = {True: [], False: []}

    def visit(node, guarded):
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items]
            guarded |= any(isinstance(c, ast.Call) and c.func.id == "device_of" for c in calls)
        if isinstance(node, ast.Call) and isinstance(getattr(node.func, "slice", None), ast.Tuple):
            found[guarded].append(ast.unparse(node.func.value))
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(tree, guarded=False)
    return found


@pytest.mark.parametrize(
    "file", sorted(Path(jit.__file__).parent.glob("[!_]*.py")), ids=lambda file: file.stem
)
def test_every_kernel_is_launched_on_the_gpu_of_its_tensors(file):
    """Triton would launch it on the current one."""
    found = launches(ast.parse(file.read_text()))
    assert found[True]
    assert found[False] == []


def test_a_launch_on_the_current_gpu_is_noticed():
    """The control."""
    source = "with device_of(x):\n    one[(2,)](x)\nother[(3,)](x)\n"
    assert launches(ast.parse(source)) == {True: ["one"], False: ["other"]}
