"""Which architectures can decode trees, and which KV policies they support; checked without weights."""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any, Protocol

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import (
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from toolkit.choice import Choice
from toolkit.errors import MismatchError, ModelError
from toolkit.interfaces import KVPolicy, MaskPolicy, ScorePolicy
from toolkit.runtime.compute.attention import NAME, HostRows, Pass, bound
from toolkit.runtime.compute.executors.build_on_meta import build_on_meta
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.policies import AllVisible, eviction_of
from toolkit.runtime.kv.rotary import Rotary, has_rotary, rotation_known

COUNTS = re.compile(r"n(um)?_.*(layer|expert)s?")  # what a config calls its numbers of modules
MOST = 10_000  # layers, or experts
MOVING_ROTARY = ("dynamic", "longrope")  # frequencies depend on the deepest position of a pass
UNLIMITED = 1 << 30  # positions: more than any text has


_reasons: dict[tuple[type, str], str | None] = {}  # by config class and contents


def require_countable(config: dict[str, Any]) -> None:
    """Raise `ValueError` for a config with so many layers or experts that it takes minutes to build."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            if COUNTS.fullmatch(key) and isinstance(value, int) and value > MOST:
                raise ValueError(f"its {key} is {value}, and no model has more than {MOST}")


def require_supported(config: PretrainedConfig, name: str) -> None:
    """Raise `ModelError` with the reason when trees cannot be decoded on this architecture; that of a
    multimodal model is its language model's."""
    key = type(config), config.to_json_string()
    if key not in _reasons:
        _reasons[key] = _reason_against(copy.deepcopy(config))
    if _reasons[key]:
        raise ModelError(
            f"model {name!r} ({config.model_type}) cannot decode trees: {_reasons[key]}"
        )


def text_config_of(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the language model; `config` itself where the model has no other part."""
    return config.get_text_config(decoder=True)


def _reason_against(config: PretrainedConfig) -> str | None:
    cls = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if cls is not None and "shared_kv_states" in inspect.signature(cls.forward).parameters:
        return "it drafts from another model's keys and values, and cannot decode alone"
    config = text_config_of(config)
    try:
        return _reason_in_config(config) or _reason_in_trial(config)
    except (AssertionError, ValueError) as error:  # written for a person
        return f"transformers cannot build it from this config: {first_line(error)}"
    except Exception:  # noqa: BLE001 whatever its code runs into
        return "transformers cannot build it from this config, which lacks or contradicts something"


def _reason_in_config(config: PretrainedConfig) -> str | None:
    """A reason that can be read from the config or the class."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "transformers has no decoder-only language model of this type"
    if hasattr(config, "type_vocab_size"):
        return "it is built as an encoder, which reads both ways or counts positions its own way"
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [r.get("rope_type") for r in rope.values() if isinstance(r, dict)]
    if {rope.get("rope_type"), *nested} & set(MOVING_ROTARY):
        return "its rotary frequencies move with the longest position of a pass, so a tree changes them"
    if "chunked_attention" in (getattr(config, "layer_types", None) or []):
        return "it attends in chunks, which the tree attention does not support"
    cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if getattr(cls, "_is_stateful", False):
        return "it keeps a recurrent state, which cannot forget a rejected token"
    if "position_ids" not in inspect.signature(cls.forward).parameters:
        return "it takes no position_ids, so a node's position cannot be its depth"
    if getattr(config, "num_hidden_layers", None) is None:
        return "it is not one stack of decoder layers: its config has no num_hidden_layers"
    return _reason_in_cache(config)


def _reason_in_cache(config: PretrainedConfig) -> str | None:
    """A reason that can be read from the cache that transformers makes for it."""
    layers = DynamicCache(config=config).layers
    if any(isinstance(layer, DynamicIndexedLayer) for layer in layers):
        return (
            "its indexer chooses the keys that each token attends to (sparse attention) by their order "
            "in the cache, where a tree's branches lie side by side"
        )
    plain = [layer for layer in layers if isinstance(layer, DynamicLayer)]
    if plain != layers or any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in plain):
        return "some of its layers keep a state other than keys and values"
    return None


def _reason_in_trial(config: PretrainedConfig) -> str | None:
    """Build the architecture without weights and send two rows through our attention."""
    module = build_on_meta(config).to(torch.bfloat16)  # experts want it
    if not module._can_set_attn_implementation():
        return "its attention cannot be replaced"
    module.set_attn_implementation(NAME)
    cache = TreeCache(config.num_hidden_layers, windows=windows_of(config))
    cache.extend(2)
    with torch.device("meta"):
        rows = torch.arange(2)
        eviction = eviction_of(AllVisible(), cache, Rotary(()))
        now = Pass(eviction, HostRows.chain([0, 1]), deepest=1)
        try:
            with bound(now):
                module(
                    input_ids=rows[None],
                    position_ids=rows[None],
                    past_key_values=cache,
                    use_cache=True,
                )
        except ModelError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 whatever its code runs into
            if "meta" in str(error):  # it reads values, as some experts do: inconclusive
                return None
            return "its own code fails on token ids with positions and a cache of keys and values"
    if not now.calls:
        return "its attention cannot be replaced"
    if now.calls < config.num_hidden_layers:
        return f"only {now.calls} of its {config.num_hidden_layers} layers use the attention set for it"
    return None


class Sized(Protocol):
    """A model that was found or loaded."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> PretrainedConfig: ...
    @property
    def positions(self) -> int: ...


def require_kv_supported(choice: Choice[KVPolicy], model: Sized) -> None:
    """Raise `MismatchError` with the reason when a KV policy cannot work on this model."""
    reason = _reason_against_policy(choice.build(), model.config, model.positions)
    if reason:
        raise MismatchError(
            f"cannot use KV policy {str(choice)!r} on model {model.name!r}: {reason}"
        )


def _reason_against_policy(
    policy: KVPolicy, config: PretrainedConfig, positions: int
) -> str | None:
    if isinstance(policy, ScorePolicy):
        return _reason_against_scores(policy, config)
    if isinstance(policy, MaskPolicy) and policy.reindexes:
        return _reason_against_reindexing(policy, config, positions)
    return None


def _reason_against_scores(policy: ScorePolicy, config: PretrainedConfig) -> str | None:
    if getattr(config, "num_kv_shared_layers", None):
        return "some of its layers attend to another layer's KV, so a layer cannot evict alone"
    if None not in windows_of(config):
        return "all its layers have a sliding window of their own, so it could evict nothing"
    if policy.rotates and not rotation_known(config):
        return f"how {config.model_type} rotates its keys is not known here"
    return None


def _reason_against_reindexing(
    policy: MaskPolicy, config: PretrainedConfig, positions: int
) -> str | None:
    if not has_rotary(config):
        return (
            "its positions are learned and are in the keys, so sinks cannot move; "
            "positions=absolute works"
        )
    if not rotation_known(config):
        return f"how {config.model_type} rotates its keys is not known here"
    if policy.budget + policy.epoch > positions:
        return (
            f"budget {policy.budget} and epoch {policy.epoch} together exceed its {positions} "
            f"positions: lower one"
        )
    return None


def require_shareable(choice: Choice[KVPolicy]) -> None:
    """Raise `MismatchError` when a policy cannot choose among rows that another cache holds."""
    if issubclass(choice.cls, ScorePolicy) and choice.cls.logs:
        raise MismatchError(
            f"cannot draft under KV policy {choice.cls.name!r}: it reads queries, and a drafter that "
            f"shares the target's KV has none; streaming, window, knorm, keydiff and lagkv read none"
        )


def positions_under(policy: KVPolicy, positions: int) -> int:
    """How many positions a text may have: `UNLIMITED` under a policy that re-indexes."""
    reindexes = isinstance(policy, MaskPolicy) and policy.reindexes
    return UNLIMITED if reindexes else positions


def windows_of(config: PretrainedConfig) -> tuple[int | None, ...]:
    """The sliding window of each layer, None where it has none."""
    return tuple(
        getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers
    )


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
