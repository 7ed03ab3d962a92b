"""Builds an architecture without weights, to look at it or to try it."""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel


def build_on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """A module of a config on the meta device, in eval mode.

    Its dtype is PyTorch's default one: transformers would change that of the whole process for another.
    """
    config = copy.deepcopy(config)
    config.dtype = None
    with torch.device("meta"):
        module: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager"
        )
    return module.eval()
