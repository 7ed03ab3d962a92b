"""Costs that were measured, remembered from one process to the next, unless the machine was busy."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path

import cattrs
import torch

from toolkit.costs import Costs
from toolkit.runtime.machine import cache_folder, cpu_name, sources
from toolkit.runtime.models import LoadedModel

BUSY = 1.6  # noise from which a measurement is not remembered


def fingerprint(models: list[LoadedModel], specs: dict[str, str]) -> str:
    """What a measurement holds for: machine, libraries, threads, models by shape, strategies."""
    shapes = [
        {**model.config.to_dict(), "_name_or_path": None, "dtype": str(model.dtype)}
        for model in models
    ]
    what = {
        "code": sources(),
        "machine": [platform.node(), cpu_name(), os.cpu_count()],
        "device": [_device(model.device) for model in models],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "executor": [(model.executor.why, model.executor.linears) for model in models],
        "models": shapes,
        "specs": specs,
    }
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _file(key: str) -> Path:
    return cache_folder("costs") / f"{key}.json"


def stored(key: str) -> Costs | None:
    """What was stored under a fingerprint; None when there is nothing that can be read."""
    try:
        return cattrs.structure(json.loads(_file(key).read_text()), Costs)
    except Exception:  # noqa: BLE001 absent, torn or of another format: measure anew
        return None


def store(key: str, costs: Costs) -> None:
    """Keep a measurement of a machine that was not busy; two processes may do so at once. A folder
    that cannot be written to is no error: the next process measures again."""
    if costs.noise > BUSY:
        return
    try:
        handle, name = tempfile.mkstemp(dir=_file(key).parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(cattrs.unstructure(costs), file)
        Path(name).replace(_file(key))
    except OSError:
        return
