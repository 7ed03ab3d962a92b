"""Where a model is: in a folder, in the hub's cache, or on the hub; under its own name or an alias."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import frozen

from toolkit import embedded
from toolkit.errors import ModelError
from toolkit.files import is_folder
from toolkit.words import did_you_mean, quote, shorten

CONFIG = "config.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PATIENCE = 5  # seconds to wait for the hub before looking at what is here


@frozen
class Location:
    """Where a named model is."""

    name: str
    path: str  # a folder or a hub id
    local_only: bool  # whether to ask the hub for nothing


def locate(name: str, aliases: dict[str, str]) -> Location:
    """Where a model is. Raises `ModelError` when it is neither on this machine nor reachable."""
    path = resolve(name, aliases)
    return Location(name, path, is_local_only(name, path))


def named_target(location: Location) -> str | None:
    """The target that a drafter's config names as its verifier, in the format of the speculators
    library (github.com/vllm-project/speculators); None: it names none."""
    file = Path(location.path) / CONFIG
    if not is_folder(location.path):
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(location.path, CONFIG, local_files_only=location.local_only))
    try:
        name = json.loads(file.read_text(encoding="utf-8"))["speculators_config"]["verifier"][
            "name_or_path"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and name else None


def resolve(name: str, aliases: dict[str, str]) -> str:
    """The folder or hub id that an alias, folder or hub id stands for. Raises `ModelError` for an
    unknown word, and for a folder without a model."""
    path = aliases.get(name, name)
    if path.startswith("~"):
        path = str(Path(path).expanduser())
    if path.startswith("package:"):
        return str(embedded.folder(path.removeprefix("package:")))
    if is_folder(path):
        if not (Path(path) / CONFIG).is_file():
            raise ModelError(
                f"no config.json in {path}: a model folder is what save_pretrained writes"
            )
        return path
    if "/" in path and not _is_path(path):
        return path
    if _is_path(path):
        raise ModelError(f"no model folder {shorten(path)}: looked for a folder with a config.json")
    hint = did_you_mean(path, aliases, "`toolkit models` lists the known names")
    raise ModelError(
        f"no model called {quote(path)}: it is no folder, alias or hub id (owner/name); {hint}"
    )


def _is_path(text: str) -> bool:
    return text.startswith((".", "/"))


def is_local_only(name: str, path: str) -> bool:
    """Whether to use local files alone: a folder, or a cached model whose hub does not answer.

    Asked once and with little patience, because transformers would try for half a minute. Raises
    `ModelError` for a model that is neither on this machine nor reachable.
    """
    if is_folder(path):
        return True
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(path, timeout=PATIENCE)
    except HFValidationError as error:
        raise ModelError(
            f"{quote(path)} is neither a folder nor a hub id: a hub id is owner/name"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model {quote_model(name, path)} on the Hugging Face hub, or it is private: check the "
            f"id, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # whatever the hub's HTTP client raises
        if in_hub_cache(path):
            return True
        raise ModelError(
            f"model {quote_model(name, path)} is not here and not reachable: looked in "
            f"{constants.HF_HUB_CACHE} and on the Hugging Face hub; get it with "
            f"`hf download {path}`, or give a local folder"
        ) from error
    return False


def in_hub_cache(path: str) -> bool:
    """Whether the hub's cache holds a model's config and weights, or their index."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        held = [isinstance(try_to_load_from_cache(path, file), str) for file in (CONFIG, *WEIGHTS)]
    except HFValidationError:  # no hub id at all
        return False
    return held[0] and any(held[1:])


def quote_model(name: str, path: str) -> str:
    """A model in a message: its name, and what the name stands for where that differs."""
    return quote(name) if name == path else f"{quote(name)} ({shorten(path)})"
