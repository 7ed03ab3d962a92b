"""Find a model's config and tokenizer, and load its weights.

A model that cannot decode trees is rejected before its weights load: its architecture is built on the
meta device and tried. The error names the reason.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import cast

import torch
from attrs import frozen
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING

from toolkit.errors import ModelError, NoMemoryError
from toolkit.progress import working
from toolkit.runtime.compute.executors.build_on_meta import build_on_meta
from toolkit.runtime.compute.executors.choose_executor import (
    Executor,
    choose_executor,
    require_functional,
)
from toolkit.runtime.kv.rotary import Rotary
from toolkit.runtime.machine.memory import LESS_FOR_WEIGHTS, name_lack_of_memory
from toolkit.runtime.models.locate import CONFIG, Location, quote_model
from toolkit.runtime.models.quiet import hush, without_progress_bars
from toolkit.runtime.models.supported import (
    UNLIMITED,
    first_line,
    require_countable,
    require_supported,
    text_config_of,
    windows_of,
)
from toolkit.runtime.models.text_model import text_model_of

IDENTITY = ("*.json", "*.safetensors", "*.bin", "*.model", "merges.txt", "vocab.txt", "*.jinja")
"""The files of a model folder that decide what it decodes."""
hush()


@frozen(eq=False, slots=False)
class LoadedModel:
    """A module that is ready for tree passes, and the facts about it that the toolkit needs."""

    name: str
    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    layers: int
    vocabulary: int
    positions: int
    device: torch.device
    dtype: torch.dtype
    parameters: int  # as loaded: an executor may pack the weights and let go of the originals
    weight_bytes: int
    wanted: str = "auto"  # the name of the executor to use
    owned: bool = False  # whether nobody else holds the module

    @cached_property
    def executor(self) -> Executor:
        """Runs its passes; chosen on first use. Raises `ModelError` when `wanted` cannot run it."""
        task = f"to choose what runs model {self.name!r}"
        with name_lack_of_memory(self.device, task, LESS_FOR_WEIGHTS):
            return choose_executor(self.module, self.windows, self.wanted, self.owned)

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """The sliding window of each layer, None where it has none."""
        return windows_of(self.module.config)

    @cached_property
    def rotary(self) -> Rotary:
        return Rotary.of(self.module, self.module.config)

    @property
    def config(self) -> PretrainedConfig:
        return self.module.config

    @property
    def generation_config(self) -> GenerationConfig:
        return cast("GenerationConfig", self.module.generation_config)


@frozen(eq=False)
class FoundModel:
    """A model that is on this machine or reachable: its configs and tokenizer, without weights."""

    name: str
    path: str  # a folder or a hub id
    local_only: bool  # whether to ask the hub for nothing
    config: PretrainedConfig  # of the language model
    whole_config: PretrainedConfig  # the checkpoint's, which may have other parts, too
    generation_config: GenerationConfig
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def vocabulary(self) -> int:
        return int(self.config.vocab_size)

    @property
    def revision(self) -> str | None:
        """The hub's commit, or a sha256 of a local folder's configs, tokenizer and weights, or None."""
        commit: str | None = getattr(self.whole_config, "_commit_hash", None)
        return commit or _digest(Path(self.path))

    @property
    def positions(self) -> int:
        return positions_of(self.config)


def _digest(folder: Path) -> str | None:
    files = sorted(file for pattern in IDENTITY for file in folder.glob(pattern))
    if not files:
        return None
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def find(location: Location, executor: str = "auto") -> FoundModel:
    """Load configs and tokenizer of a model. Raises `ModelError` when it cannot decode trees, or when
    `executor` cannot run it."""
    name, path, local = location.name, location.path, location.local_only
    try:
        require_countable(PretrainedConfig.get_config_dict(path, local_files_only=local)[0])
        config = AutoConfig.from_pretrained(path, local_files_only=local, trust_remote_code=False)
        generation_config = _load_generation_config(path, local)
    except Exception as error:  # of any kind: a config may run into anything
        raise ModelError(
            f"model {quote_model(name, path)} cannot be used: {first_line(error)}"
        ) from error
    require_supported(config, name)
    text = text_config_of(config)
    if executor == "functional":
        require_functional(build_on_meta(text))
    tokenizer = _load_tokenizer(path, local)
    return FoundModel(name, path, local, text, config, generation_config, tokenizer)


def _load_generation_config(path: str, local: bool) -> GenerationConfig:
    """The model's generation config; where there is none, that of its config, as transformers does."""
    try:
        return GenerationConfig.from_pretrained(path, local_files_only=local)
    except OSError:
        return GenerationConfig.from_pretrained(
            path, config_file_name=CONFIG, _from_model_config=True, local_files_only=local
        )


_loading = Lock()  # transformers changes process-wide state while it loads weights


def _load_tokenizer(path: str, local: bool = True) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, or None where there is none: then prompts are token ids."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=local, trust_remote_code=False
        )
    except Exception:  # noqa: BLE001 of many kinds: no files, no code for them, no library
        return None
    empty = len(tokenizer) <= len(tokenizer.all_special_tokens)  # of no files
    return None if empty else tokenizer


def load(
    found: FoundModel, device: torch.device, dtype: torch.dtype | None, executor: str = "auto"
) -> LoadedModel:
    """Load the weights; `dtype` None keeps the checkpoint's own. Raises `ModelError`."""
    try:
        with _loading, without_progress_bars(), working(f"Loading {found.name}"):
            multimodal = type(found.whole_config) in MODEL_FOR_MULTIMODAL_LM_MAPPING
            loader = AutoModelForMultimodalLM if multimodal else AutoModelForCausalLM
            module, report = loader.from_pretrained(
                found.path,
                config=found.whole_config if multimodal else found.config,
                dtype=dtype or "auto",
                local_files_only=found.local_only,
                trust_remote_code=False,
                output_loading_info=True,
            )
            module = module.to(device)
    except torch.OutOfMemoryError as error:
        raise NoMemoryError(
            f"the weights of model {found.name!r} do not fit into the memory of {device}: use "
            f"{LESS_FOR_WEIGHTS}"
        ) from error
    except Exception as error:  # of any kind: so may weights
        raise ModelError(
            f"model {found.name!r} has a config but no weights that load: {first_line(error)}"
        ) from error
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(
            f"model {found.name!r} lacks {len(absent)} of its weights ({absent[0]}, …): the checkpoint "
            f"is incomplete or of another architecture, get it anew"
        )
    return prepare(found.name, module, found.tokenizer, executor, owned=True)


def prepare(
    name: str,
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    executor: str = "auto",
    *,
    owned: bool = False,
) -> LoadedModel:
    """Make a `LoadedModel` of a module, or of its language model: set it to eval mode and to our
    attention. Raises `ModelError` for a module in memory that cannot decode trees."""
    config, place = text_config_of(module.config), module.config.name_or_path
    devices = {str(device) for device in (getattr(module, "hf_device_map", None) or {}).values()}
    if len(devices) > 1:
        raise ModelError(
            f"model {name!r} is spread over devices {', '.join(sorted(devices))}: load it on one, as "
            f"with device_map={{'': 0}}"
        )
    if not owned:  # what is loaded was tried when it was found
        require_supported(module.config, name)
    module = text_model_of(module.eval(), name)
    if tokenizer is None and place:
        tokenizer = _load_tokenizer(place)
    return LoadedModel(
        name=name,
        module=module,
        tokenizer=tokenizer,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        positions=positions_of(config),
        device=module.device,
        dtype=module.dtype,
        parameters=sum(weight.numel() for weight in module.parameters()),
        weight_bytes=sum(weight.nbytes for weight in module.parameters()),
        wanted=executor,
        owned=owned,
    )


def positions_of(config: PretrainedConfig) -> int:
    """How many positions the model can address; `UNLIMITED` where its config has no limit."""
    return int(getattr(config, "max_position_embeddings", None) or UNLIMITED)
