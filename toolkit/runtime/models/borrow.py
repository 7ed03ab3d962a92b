"""Borrow a model that is somebody else's, and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PretrainedConfig, PreTrainedModel

from toolkit.runtime.compute.attention import NAME

FIELD = "_attn_implementation_internal"  # the plain value: its property would write to sub-configs


@contextmanager
def borrowed(*modules: PreTrainedModel) -> Iterator[None]:
    """Modules in eval mode and with our attention, while open; whatever happens, then as before."""
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
    """Every config that the modules and their parts read, sub-configs included."""
    parts = [part for module in modules for part in module.modules()]
    found = [part.config for part in parts if isinstance(part, PreTrainedModel)]
    for config in found:  # grows while it is walked
        below = [getattr(config, name, None) for name in config.sub_configs]
        found += [sub for sub in below if sub is not None and sub not in found]
    return found
