"""`toolkit doctor`: what runs on this machine, which exactness it reaches, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.run import dtype_option, executor_option, plugin_option, registry

if TYPE_CHECKING:
    from toolkit.runtime.models import LoadedModel


@click.command()
@click.option(
    "--target", metavar="MODEL", help="Alias, folder or hub id of a model; else the shipped one."
)
@dtype_option
@executor_option
@plugin_option
def doctor(target: str | None, dtype: str, executor: str, plugins: tuple[Path, ...]) -> None:
    """Which executor, attention kernel, linears and numerics level a model gets here, and why.

    The first call for a model compares whole passes bit by bit; what it finds is remembered.
    """
    from rich.console import Console
    from rich.table import Table

    from toolkit import Pipeline, Pool
    from toolkit.runtime.models import quiet

    quiet()
    pool = Pool(dtype=dtype, executor=executor)
    pipeline = Pipeline(target, drafter="none", pool=pool, registry=registry(plugins))
    model = pool.load(pipeline.target)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, said in {**machine(), **facts(model)}.items():
        table.add_row(name, said)
    Console(highlight=False).print(table)


def machine() -> dict[str, str]:
    """What is here, whatever the model."""
    import torch

    from toolkit.runtime.kernels import native
    from toolkit.runtime.machine import cache_folder, cpu_name

    kernels = native.library()
    said = f"PyTorch's, because {native.why_not()}"
    if kernels is not None:
        said = f"our own in C, for {kernels.isa}, compiled into {cache_folder('kernels')}"
    return {
        "CPU": cpu_name().split("  ")[0].partition(" fpu ")[0],
        "threads": f"{torch.get_num_threads()} (OMP_NUM_THREADS sets them)",
        "PyTorch": torch.__version__,
        "attention": said,
    }


def facts(model: LoadedModel) -> dict[str, str]:
    """What a loaded model gets here."""
    from toolkit.runtime.kernels import structs

    executor, level = model.executor, model.level
    facts = {
        "model": f"{model.name}, {str(model.dtype).removeprefix('torch.')} on {model.device}",
        "executor": f"{executor.name}, because {executor.why}",
        "linears": executor.linears,
        "level": f"{level.name}: {level.why}",
    }
    if model.device.type != "cpu" or model.dtype not in structs.DTYPES:
        facts["attention"] = "PyTorch's, because ours is for fp32 and bf16 on CPU"
    return facts
