"""Architectures that cannot be decoded by trees, and why, found out without weights."""

from __future__ import annotations

import inspect

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from toolkit.errors import ModelError
from toolkit.runtime.attention import NAME

MOVING_ROTARY = ("dynamic", "longrope")  # frequencies depend on the deepest position of a pass


def refuse(config: PretrainedConfig, name: str) -> None:
    """Raise `ModelError` with the reason when trees cannot be decoded on this architecture."""
    because = _reason_against(config)
    if because:
        raise ModelError(f"model {name!r} ({config.model_type}) cannot decode trees: {because}")


def _reason_against(config: PretrainedConfig) -> str | None:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "transformers knows no decoder-only language model of this type"
    if hasattr(config, "type_vocab_size"):
        return "it is built as an encoder, which reads both ways or counts positions its own way"
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {
        r.get("rope_type") for r in rope.values() if isinstance(r, dict)
    }
    if kinds & set(MOVING_ROTARY):
        return "its rotary frequencies move with the longest position of a pass, so a tree changes them"
    if "chunked_attention" in (getattr(config, "layer_types", None) or []):
        return "it attends in chunks, which the tree attention does not know"
    cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if getattr(cls, "_is_stateful", False):
        return "it keeps a recurrent state, which cannot forget a rejected token"
    if "position_ids" not in inspect.signature(cls.forward).parameters:
        return "it takes no position_ids, so a node's position cannot be its depth"
    if any(not isinstance(layer, DynamicLayer) for layer in DynamicCache(config=config).layers):
        return "some of its layers keep a state other than keys and values"
    return _reason_against_attention(config)


def _reason_against_attention(config: PretrainedConfig) -> str | None:
    """Build the architecture without weights and see whether it takes our attention."""
    with torch.device("meta"):
        try:
            module = AutoModelForCausalLM.from_config(config)
        except (ImportError, RuntimeError, ValueError) as error:
            return f"it cannot be built ({str(error).splitlines()[0]})"
    if not module._can_set_attn_implementation():
        return "its attention cannot be replaced"
    module.set_attn_implementation(NAME)
    if module.config._attn_implementation != NAME:
        return "its attention cannot be replaced"
    return None
