"""Find a model, look at it without its weights, load it once.

What cannot be decoded by trees is refused by name and with the reason, before weights are loaded:
the architecture is built on the meta device and asked.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from huggingface_hub import constants
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from toolkit import embedded
from toolkit.errors import ModelError
from toolkit.runtime.attention import NAME
from toolkit.runtime.executors.module import ModuleExecutor

MOVING_ROTARY = ("dynamic", "longrope")  # frequencies depend on the deepest position of a pass


@frozen(eq=False)
class LoadedModel:
    """A module ready for tree passes, and what the rest of the toolkit needs to know of it."""

    name: str
    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    layers: int
    vocabulary: int
    positions: int
    device: torch.device
    dtype: torch.dtype
    stop_ids: frozenset[int]

    @property
    def executor(self) -> ModuleExecutor:
        return ModuleExecutor(self.module)

    @property
    def numerics(self) -> str:
        """How equality with AR is meant: `fp32`, token-identical, or `tie`, up to numerical ties."""
        return "fp32" if self.dtype in (torch.float32, torch.float64) else "tie"


@frozen(eq=False)
class FoundModel:
    """A model that is here or reachable, looked at but not loaded."""

    name: str
    place: str  # folder or hub id
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def vocabulary(self) -> int:
        return int(self.config.vocab_size)

    @property
    def revision(self) -> str | None:
        """The hub's commit, or a sha256 over a local folder's config and weights."""
        commit: str | None = getattr(self.config, "_commit_hash", None)
        return commit or _digest(Path(self.place))

    @property
    def positions(self) -> int:
        return positions_of(self.config)


def quiet() -> None:
    """No progress bars and no advice from transformers: what matters, we say ourselves."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def place_of(name: str, aliases: dict[str, str]) -> str:
    """Alias, folder or hub id → folder or hub id. Raises `ModelError` for a bare unknown word."""
    place = aliases.get(name, name)
    if place.startswith("package:"):
        return str(embedded.folder(place.removeprefix("package:")))
    if Path(place).is_dir() or ("/" in place and not _is_path(place)):
        return place
    if _is_path(place):
        raise ModelError(f"no model folder {place}: looked for a folder with a config.json")
    near = difflib.get_close_matches(place, aliases, 3)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else "`toolkit models` lists the known names"
    )
    raise ModelError(
        f"no model called {place!r}: it is no folder, alias or hub id (owner/name); {hint}"
    )


def _digest(folder: Path) -> str | None:
    files = sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")])
    if not files:
        return None
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~"))


def find(name: str, aliases: dict[str, str]) -> FoundModel:
    """Config and tokenizer of a model. Raises `ModelError`: not here, not reachable, or refused."""
    place = place_of(name, aliases)
    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        raise ModelError(
            f"no config.json in {place}: a model folder is what save_pretrained writes"
        )
    try:
        config = AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_unreachable(name, place, error)) from error
    config = config.get_text_config(decoder=True)
    refuse(config, name)
    return FoundModel(name, place, config, _tokenizer(place))


def _unreachable(name: str, place: str, error: Exception) -> str:
    shown = repr(name) if name == place else f"{name!r} ({place})"
    if Path(place).is_dir():
        return f"model folder {place} cannot be read: {str(error).splitlines()[0]}"
    if isinstance(error, (ValueError, KeyError)):
        return f"model {shown} cannot be used: {str(error).splitlines()[0]}"
    return (
        f"model {shown} is not here and not reachable: looked in {constants.HF_HUB_CACHE} and on the "
        f"Hugging Face hub; get it with `hf download {place}`, or give a local folder"
    )


def _tokenizer(place: str) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, or None where there is none: then prompts are token ids."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tokenizer if len(tokenizer) else None


def refuse(config: PretrainedConfig, name: str) -> None:
    """Raise `ModelError` with the reason when trees cannot be decoded on this architecture."""
    because = _reason_against(config)
    if because:
        raise ModelError(f"model {name!r} ({config.model_type}) cannot decode trees: {because}")


def _reason_against(config: PretrainedConfig) -> str | None:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "transformers knows no decoder-only language model of this type"
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


def load(found: FoundModel, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Load the weights; `dtype` None keeps the checkpoint's own."""
    try:
        module = AutoModelForCausalLM.from_pretrained(
            found.place, config=found.config, dtype=dtype or "auto", attn_implementation=NAME
        )
    except OSError as error:
        raise ModelError(
            f"model {found.name!r} has a config but no weights that load: {str(error).splitlines()[0]}"
        ) from error
    return prepared(found.name, module.to(device), found.tokenizer)


def prepared(
    name: str, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
) -> LoadedModel:
    """A module in memory → `LoadedModel`. The module's attention is set to ours."""
    config = module.config
    refuse(config, name)
    module.eval().set_attn_implementation(NAME)
    if tokenizer is None and config.name_or_path:
        tokenizer = _tokenizer(config.name_or_path)
    return LoadedModel(
        name=name,
        module=module,
        tokenizer=tokenizer,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        positions=positions_of(config),
        device=module.device,
        dtype=module.dtype,
        stop_ids=_stop_ids(module.generation_config, config),
    )


def positions_of(config: PretrainedConfig) -> int:
    """How many positions the model can address; without a stated limit, more than anyone needs."""
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def _stop_ids(*sources: Any) -> frozenset[int]:
    """End-of-sequence ids, from the generation config before the model's own."""
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset()
