"""Costs that were measured, remembered from one process to the next, unless the machine was busy."""

from __future__ import annotations

import json
import os
import platform

import cattrs
import torch

from toolkit.costs import Costs
from toolkit.runtime.kernels import native
from toolkit.runtime.machine.remembered import key_of, recall, remember
from toolkit.runtime.models.load import LoadedModel

BUSY = 1.6  # noise from which a measurement is not remembered


def fingerprint(models: list[LoadedModel], specs: dict[str, str]) -> str:
    """What a measurement holds for: machine, libraries, threads, models by shape, strategies."""
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
    """What was stored under a fingerprint; None when there is nothing that can be read."""
    try:
        return cattrs.structure(recall("costs", key), Costs)
    except Exception:  # noqa: BLE001 nothing there, or of another format: measure anew
        return None


def store(key: str, costs: Costs) -> None:
    """Keep a measurement of a machine that was not busy; two processes may do so at once."""
    if costs.noise <= BUSY:
        remember("costs", key, cattrs.unstructure(costs))
