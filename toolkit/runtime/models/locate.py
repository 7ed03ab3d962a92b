"""Where a model is: an alias, a folder, the hub's cache, or the hub."""

from __future__ import annotations

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
class Place:
    """Where a named model is: `path` is a folder or a hub id."""

    name: str
    path: str
    local: bool  # whether the hub is to be left alone


def located(name: str, aliases: dict[str, str]) -> Place:
    """Where a model is. Raises `ModelError` when it is neither here nor reachable."""
    path = place_of(name, aliases)
    return Place(name, path, only_here(name, path))


def place_of(name: str, aliases: dict[str, str]) -> str:
    """Alias, folder or hub id → folder or hub id. Raises `ModelError` for a bare unknown word, and for
    a folder that holds no model."""
    place = aliases.get(name, name)
    if place.startswith("~"):
        place = str(Path(place).expanduser())
    if place.startswith("package:"):
        return str(embedded.folder(place.removeprefix("package:")))
    if is_folder(place):
        if not (Path(place) / CONFIG).is_file():
            raise ModelError(
                f"no config.json in {place}: a model folder is what save_pretrained writes"
            )
        return place
    if "/" in place and not _is_path(place):
        return place
    if _is_path(place):
        raise ModelError(
            f"no model folder {shorten(place)}: looked for a folder with a config.json"
        )
    hint = did_you_mean(place, aliases, "`toolkit models` lists the known names")
    raise ModelError(
        f"no model called {quote(place)}: it is no folder, alias or hub id (owner/name); {hint}"
    )


def _is_path(text: str) -> bool:
    return text.startswith((".", "/"))


def only_here(name: str, place: str) -> bool:
    """Whether to use local files alone: a folder, or a cached model whose hub does not answer.

    Asked once and with little patience, because transformers would try for half a minute. Raises
    `ModelError` for a model that is neither here nor reachable.
    """
    if is_folder(place):
        return True
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(place, timeout=PATIENCE)
    except HFValidationError as error:
        raise ModelError(
            f"{quote(place)} is neither a folder nor a hub id: a hub id is owner/name"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model {shown(name, place)} on the Hugging Face hub, or it is private: check the id, "
            f"or log in with `hf auth login`"
        ) from error
    except Exception as error:  # whatever the hub's HTTP client raises
        if cached(place):
            return True
        raise ModelError(
            f"model {shown(name, place)} is not here and not reachable: looked in "
            f"{constants.HF_HUB_CACHE} and on the Hugging Face hub; get it with "
            f"`hf download {place}`, or give a local folder"
        ) from error
    return False


def cached(place: str) -> bool:
    """Whether the hub's cache holds a model's config and weights, or their index."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        held = [isinstance(try_to_load_from_cache(place, file), str) for file in (CONFIG, *WEIGHTS)]
    except HFValidationError:  # no hub id at all
        return False
    return held[0] and any(held[1:])


def shown(name: str, place: str) -> str:
    """A model in a message: as it was named, and what the name stands for."""
    return quote(name) if name == place else f"{quote(name)} ({shorten(place)})"
