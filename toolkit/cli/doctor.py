"""`toolkit doctor`: the executor, kernels and numerics level of a model on this machine, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import options
from toolkit.progress import show_progress

if TYPE_CHECKING:
    from toolkit.runtime.models.load import LoadedModel


@click.command()
@options.target(help="Alias, folder or hub id of a model; the shipped one by default.")
@options.models()
@options.plugin()
def doctor(**chosen: Any) -> None:
    """Show which executor, kernels, linears and numerics level a model gets here, and why.

    The first call for a model compares whole passes bit by bit and remembers the result.
    """
    from rich.table import Table

    from toolkit.terminal import print_table

    with show_progress():
        pipeline = options.make_pipeline(drafter="none", **chosen)
        model = pipeline.pool.load(pipeline.target)
        rows = {**machine(), **kernels(model), **facts(model)}
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, said in rows.items():
        table.add_row(name, said)
    print_table(table)


def machine() -> dict[str, str]:
    """Facts about the machine that hold for any model."""
    import torch

    from toolkit.runtime.kernels.build import supported
    from toolkit.runtime.machine.cpu import cpu_model
    from toolkit.runtime.machine.remembered import LIMITS

    capability = torch.backends.cpu.get_cpu_capability()
    onednn = ", ".join(_set(*LIMITS)) or "no limit set"
    return {
        "CPU": cpu_model(),
        "instruction sets": ", ".join(supported()),
        "threads": f"{torch.get_num_threads()} (OMP_NUM_THREADS sets them)",
        "waiting": waiting(),
        "PyTorch": ", ".join(
            [torch.__version__, f"uses {capability}", *_set("ATEN_CPU_CAPABILITY")]
        ),
        "oneDNN": onednn if torch.backends.mkldnn.is_available() else "not in this PyTorch",
    }


def kernels(model: LoadedModel) -> dict[str, str]:
    """Which kernels run on a model's device, and why not ours or no faster ones."""
    from toolkit.runtime.kernels import structs

    if model.device.type == "cuda":
        return on_gpu(model)
    if model.device.type != "cpu" or model.dtype not in structs.DTYPES:
        return {"kernels": "PyTorch's, because ours are for fp32 and bf16 on CPU"}
    return in_c()


def on_gpu(model: LoadedModel) -> dict[str, str]:
    """The GPU of a model, and whether our kernels run on it."""
    import torch

    from toolkit.runtime.kernels.triton import jit
    from toolkit.runtime.machine.cpu import gpu_driver

    card, driver = torch.cuda.get_device_name(model.device), gpu_driver() or "unknown"
    reason = jit.why_not(model.device, model.dtype)
    return {
        "GPU": f"{card}, driver {driver}, CUDA {torch.version.cuda}",
        "Triton": jit.version or "not installed",
        "kernels": f"PyTorch's, because {reason}" if reason else "our own in Triton",
    }


def in_c() -> dict[str, str]:
    """Which kernels run on the CPU, where they are, and why no faster ones do."""
    from toolkit.runtime.kernels import build, native

    found, allowed = native.library(), build.isas()
    if found is None:
        return {"kernels": f"PyTorch's, because {native.why_not()}"}
    folder = Path(build.load(found.isa)._name).parent
    rows = {"kernels": f"our own in C, for {found.isa}, compiled into {folder}"}
    left_out = [f"{isa}: TOOLKIT_ISA={allowed[-1]}" for isa in build.supported()[len(allowed) :]]
    for isa in allowed[allowed.index(found.isa) + 1 :]:
        try:
            build.load(isa)
        except build.NoCompiler as error:
            left_out.append(f"{isa}: {error}")
    return {**rows, "not in use": "; ".join(left_out)} if left_out else rows


def waiting() -> str:
    """How PyTorch's threads wait for each other, and what to set when other programs run as well."""
    found = _set("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    return ", ".join(found) or (
        "PyTorch's threads spin; when other programs run as well, set OMP_WAIT_POLICY=passive before "
        "Python starts"
    )


def _set(*names: str) -> list[str]:
    """The environment variables among these that are set."""
    return [f"{name}={os.environ[name]}" for name in names if name in os.environ]


def facts(model: LoadedModel) -> dict[str, str]:
    """Facts about a loaded model on this machine."""
    from toolkit.runtime.machine.disk import said
    from toolkit.runtime.numerics import find_level
    from toolkit.runtime.static_step import reason_not_whole

    executor, level = model.executor, find_level(model)  # may find that nothing can be captured
    reason = reason_not_whole(model)
    facts = {
        "model": f"{model.name}, {str(model.dtype).removeprefix('torch.')} on {model.device}",
        "executor": f"{executor.name}, because {executor.why}",
        "linears": executor.linears,
        "steps": f"pass by pass, because {reason}"
        if reason
        else "as one graph each, where trees have one shape",
        "level": f"{level.name}: {level.why}",
    }
    if busy := said("busy"):
        facts["timing"] = busy
    return facts
