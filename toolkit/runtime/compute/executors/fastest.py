"""Which kernel runs a module's passes fastest, of those that are batch-invariant.

Whole passes are timed, because with our kernel for CPUs all of a pass runs in C, and with others it
runs layer by layer; on a GPU they are graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import torch
from attrs import define, field
from torch import nn
from transformers import PreTrainedModel

from toolkit.cpu_load import Moment, busy_load
from toolkit.runtime.compute.attention import Pass
from toolkit.runtime.compute.executors.compare_logits import chain_pass
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.compute.linears.batch_invariance import RuledLinear
from toolkit.runtime.compute.linears.kernels import Kernel, bias_of, kernels_for, weight_of
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kernels import native
from toolkit.runtime.kernels.triton import jit
from toolkit.runtime.kernels.triton.jit import TritonError
from toolkit.runtime.kernels.triton.linear import SkinnyLinear
from toolkit.runtime.machine.gpu_numerics import gpu_numerics
from toolkit.runtime.machine.remembered import remembered

TIMED = (1, 8)  # rows of the passes that are timed
TURNS = range(2, 50)  # how often each kernel runs them at least and at most
ENOUGH = 0.3  # seconds after which no other turn begins

Key = TypeVar("Key", bound=Hashable)


def module_key(module: PreTrainedModel) -> tuple[str, ...]:
    """A module's key in the disk cache: its architecture, sizes and dtype, and what computes."""
    if module.device.type == "cuda":
        name = torch.cuda.get_device_name(module.device)
        triton = jit.version if jit.runs(module.get_input_embeddings().weight) else None
        where = [f"{name}, CUDA {torch.version.cuda}, Triton {triton}", *gpu_numerics()]
    else:
        kernels = native.library()
        where = [kernels.isa if kernels else "none"]
    return module.config.to_json_string(), str(module.dtype), *where


def fastest_kernel(
    module: PreTrainedModel, windows: tuple[int | None, ...], owned: bool
) -> type[Kernel]:
    """The kernel for a module's weights; timed once for its architecture, then remembered on disk."""
    kernels = {kernel.name: kernel for kernel in kernels_for(module)}
    if len(kernels) == 1:
        return kernels.popitem()[1]
    found = remembered(
        ("kernel", str(owned), *module_key(module)),
        lambda: _find_fastest(module, windows, owned),
        "Timing linears (once)",
    )
    return kernels[found["kernel"]]


def _find_fastest(
    module: PreTrainedModel, windows: tuple[int | None, ...], owned: bool
) -> dict[str, Any]:
    executors = {}
    for kernel in kernels_for(module):
        in_place = module.device.type != "cpu"  # both kernels for GPUs share the module's weights
        linears = Linears(False, kernel) if in_place else TrialLinears(owned, kernel)
        executors[kernel] = FunctionalExecutor.of(module, windows, linears)
    if SkinnyLinear in executors and not _fits(executors[SkinnyLinear].maps, module):
        del executors[SkinnyLinear]
    passes = [chain_pass(module, windows, [0] * count) for count in TIMED]
    began = Moment.now()
    took = least_seconds(executors, passes)  # for any count of rows: rules can only add rows
    load = busy_load(began) if module.device.type == "cpu" else None
    invariant = {}
    for kernel in sorted(took, key=lambda kernel: took[kernel]):
        if executors[kernel].maps.set_rule(module_key(module)):
            invariant[kernel] = executors[kernel]
            if executors[kernel].maps.rule.row_multiple == 1:
                break  # the others are slower, whatever their rules
    if len(invariant) > 1:
        took = least_seconds(invariant, passes)
    fastest = min(invariant or executors, key=lambda kernel: took[kernel])
    return {"kernel": fastest.name, "busy_load": load}


def _fits(linears: Linears, module: PreTrainedModel) -> bool:
    """Whether a GPU runs linears for any count of rows: it may have too little shared memory."""
    try:
        linears.set_rule(module_key(module))
    except TritonError:
        return False
    return True


@define(eq=False)
class TrialLinears(Linears):
    """Linears to be timed: those of one shape share one copy of the first one's weights."""

    _made: dict[tuple[Any, ...], RuledLinear] = field(factory=dict)

    def fuse(self, *modules: nn.Module) -> RuledLinear:
        """As `Linears.fuse`, but the modules keep their weights, and results have no meaning."""
        alike = tuple((weight_of(module).shape, bias_of(module) is None) for module in modules)
        if alike not in self._made:
            self._made[alike] = super().fuse(*copy.deepcopy(modules))
        return self._made[alike]


def least_seconds(
    executors: dict[type[Kernel], FunctionalExecutor], passes: list[Pass]
) -> dict[type[Kernel], float]:
    """The least seconds that each kernel's executor takes for the passes.

    The kernels take turns, because a busy machine slows all of them.
    """
    found = take_turns(
        {
            (kernel, size): partial(_timed, executor, now)
            for kernel, executor in executors.items()
            for size, now in enumerate(passes)
        }
    )
    return {kernel: sum(found[kernel, size] for size in range(len(passes))) for kernel in executors}


def take_turns(timed: Mapping[Key, Callable[[], float]]) -> dict[Key, float]:
    """The least seconds that each of several functions gives, which take turns."""
    found: dict[Key, float] = {}
    for turn in range(TURNS.stop):
        if turn <= 1:
            began = perf_counter()  # anew after the first turn, which captures graphs
        if turn >= TURNS.start and perf_counter() - began > ENOUGH:
            break
        for key, seconds in timed.items():
            now = seconds()
            found[key] = min(now, found.get(key, now))
    return found


@torch.no_grad()
def _timed(executor: FunctionalExecutor, now: Pass) -> float:
    run: Callable[[], object] = partial(executor.forward, now)
    captured = executor.captured
    if captured is not None and (graph := captured.chain_graph(now.host.tokens)) is not None:
        run = graph.replay
    return seconds_of(run, now.device)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """The seconds that a function takes, with what it launches on a GPU."""
    _finish(device)
    began = perf_counter()
    run()
    _finish(device)
    return perf_counter() - began


def _finish(device: torch.device) -> None:
    """Wait for what was launched on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
