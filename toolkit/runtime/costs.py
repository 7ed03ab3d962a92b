"""Measured costs, remembered between processes unless the machine was busy."""

from __future__ import annotations

import json
import os
import platform

import cattrs
import torch

from toolkit.costs import Costs
from toolkit.cpu_load import describe_load
from toolkit.runtime.kernels import native
from toolkit.runtime.machine.remembered import key_of, recall, remember, say_busy
from toolkit.runtime.models.load import LoadedModel

NOISY = 1.6  # a measurement with more noise is not remembered


def fingerprint(models: list[LoadedModel], specs: dict[str, str]) -> str:
    """A key of what a measurement depends on: machine, libraries, threads, model shapes, strategies."""
    shapes = [
        {**model.config.to_dict(), "_name_or_path": None, "dtype": str(model.dtype)}
        for model in models
    ]
    what = {
        "machine": [platform.node(), os.cpu_count()],
        "device": [_device(model.device) for model in models],
        "executor": [(model.executor.why, model.executor.linears) for model in models],
        "models": shapes,
        "specs": specs,
    }
    return key_of(json.dumps(what, sort_keys=True, default=str))


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kernels = native.library()
    return f"{device.type}, {kernels.isa if kernels else 'no'} kernels"


def stored(key: str) -> Costs | None:
    """The costs stored under a fingerprint; None when there are none that can be read."""
    try:
        return cattrs.structure(recall("costs", key), Costs)
    except Exception:  # noqa: BLE001 nothing there, or of another format: measure anew
        return None


def store(key: str, costs: Costs, load: float | None) -> None:
    """Store a measurement unless the machine was busy; `load` is what `busy_load` said. Two processes
    may do so at once."""
    if load is not None:
        say_busy(describe_load(load))
    elif costs.noise > NOISY:
        say_busy(f"measurements took up to {costs.noise:.1f} times their minimum")
    else:
        remember("costs", key, cattrs.unstructure(costs))
