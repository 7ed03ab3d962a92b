"""Models that somebody else holds: give them back as they were, and notice when they change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from transformers import PretrainedConfig, PreTrainedModel

from toolkit.runtime.compute.attention import NAME
from toolkit.runtime.compute.executors.module_structure import structure_of

ModuleState: TypeAlias = "tuple[list[Any], list[tuple[int, int]], bytes]"
SAMPLES = 64  # elements of each weight that are compared
FIELD = "_attn_implementation_internal"  # the plain value: its property would write to sub-configs


@contextmanager
def borrow(*modules: PreTrainedModel) -> Iterator[None]:
    """Set modules to eval mode and to our attention, and restore both at the end."""
    training = [(part, part.training) for module in modules for part in module.modules()]
    attention = [(config, getattr(config, FIELD)) for config in _configs(modules)]
    try:
        for module in modules:
            module.eval().set_attn_implementation(NAME)
        yield
    finally:
        for part, was in training:
            part.training = was
        for config, name in attention:
            setattr(config, FIELD, name)


def _configs(modules: tuple[PreTrainedModel, ...]) -> list[PretrainedConfig]:
    """The configs of the modules and of all their submodules, with sub-configs."""
    parts = [part for module in modules for part in module.modules()]
    found = [part.config for part in parts if isinstance(part, PreTrainedModel)]
    for config in found:  # grows while it is walked
        below = [getattr(config, name, None) for name in config.sub_configs]
        found += [sub for sub in below if sub is not None and sub not in found]
    return found


def state_of(module: PreTrainedModel) -> ModuleState:
    """What an executor depends on: the module's structure, where the weights lie, and what they hold.

    PyTorch counts most changes in place, but none that is made through `data`. So samples of each
    weight are compared, too.
    """
    weights = [weight.detach() for weight in (*module.parameters(), *module.buffers())]
    places = [(weight.data_ptr(), _changes(weight)) for weight in weights]
    samples = [weight.reshape(-1)[:: 1 + weight.numel() // SAMPLES] for weight in weights]
    held = torch.cat([sample.to(weights[0].device, torch.float64) for sample in samples])
    return structure_of(module), places, held.cpu().numpy().tobytes()


def _changes(weight: torch.Tensor) -> int:
    """How many changes in place PyTorch has counted."""
    return 0 if weight.is_inference() else weight._version
