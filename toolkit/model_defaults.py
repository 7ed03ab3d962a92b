"""ModelDefaults: what a model's own generation config says about decoding, as `generate` reads it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import asdict, evolve, frozen
from transformers import GenerationConfig
from transformers.generation import GenerationMixin

from toolkit.errors import ModelError
from toolkit.generate_options import (
    PROCESSORS,
    find_unsupported,
    sampling_of,
    without_warpers,
)
from toolkit.sampling import Sampling
from toolkit.words import shorten

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, PretrainedConfig

    from toolkit.runtime.models.load import FoundModel, LoadedModel

OPTIONS = sorted(set().union(*PROCESSORS.values()))
LENGTH = "forced_eos_token_id"  # at a length that AR, run again to compare, does not know


@frozen(eq=False)
class ModelDefaults:
    """A model's generation config with `generate`'s defaults for what it leaves out.

    `sampling` is how tokens are drawn where nothing else is asked for: greedily unless the config says
    `do_sample`. `options` are those of logits processors; they are part of the model's decoding,
    greedy decoding included.
    """

    sampling: Sampling
    options: dict[str, Any]
    generation_config: GenerationConfig  # filled in
    config: PretrainedConfig  # the model's

    @classmethod
    def of(
        cls,
        name: str,
        model: FoundModel | LoadedModel,
        stop_ids: frozenset[int],
        draws: bool,
        generation_config: GenerationConfig | None,
    ) -> ModelDefaults:
        """Read a model's generation config, or the one given in its place. `draws`: whether to read
        what it says about drawing tokens.

        Needs no weights. Raises `ModelError` for what cannot be honoured.
        """
        given = copy.deepcopy(generation_config or model.generation_config)
        given.update(**given._get_default_generation_params(), defaults_only=True)
        given.eos_token_id = sorted(stop_ids) or None
        if given.cache_implementation == "hybrid":  # as `generate` does
            given.cache_implementation = None
        given.do_sample = draws and bool(given.do_sample)
        given.return_dict_in_generate = False  # changes no token
        neutral = vars(GenerationConfig()) | given._get_default_generation_params()
        options = {
            option: getattr(given, option)
            for option in OPTIONS
            if getattr(given, option) not in (None, neutral[option])
        }
        try:
            made = make_processors(given, model.config, [0])
            wrong = find_unsupported(given, made) or (LENGTH if LENGTH in options else None)
            if wrong:
                raise ValueError(f"{wrong} is not supported")
            kept = without_warpers(made)
            if kept is not None:
                kept(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, model.vocabulary))
            return cls(sampling_of(given, made), options, given, model.config)
        except Exception as error:  # of many kinds: processors check their values
            raise ModelError(
                f"the generation config of model {name!r} cannot be honoured: {error}; change its "
                f"generation_config.json, or give Pipeline another generation_config"
            ) from error

    def combine(self, given: Mapping[str, Any]) -> Sampling:
        """The model's own sampling with the given settings in place of its own."""
        if self.sampling.greedy:
            return Sampling(**given)
        return evolve(self.sampling, **given)

    def processors(self, prompt: list[int], device: torch.device) -> LogitsProcessorList | None:
        """The logits processors of a request with `prompt[P]`; None where the config names none."""
        if not self.options:
            return None
        made = make_processors(self.generation_config, self.config, prompt, device)
        kept: LogitsProcessorList | None = without_warpers(made)
        return kept

    def describe(self, sampling: Sampling) -> str:
        """What decoding with `sampling` takes from the config, as `temperature=0.6,top_k=20`; empty for
        nothing."""
        own, nothing = asdict(self.sampling), asdict(Sampling())
        drawn = {
            name: value
            for name, value in asdict(sampling).items()
            if not sampling.greedy and value == own[name] != nothing[name]
        }
        return ",".join(f"{name}={shorten(str(v))}" for name, v in (drawn | self.options).items())


def make_processors(
    config: GenerationConfig,
    model: PretrainedConfig,
    prompt: list[int],
    device: torch.device | str = "cpu",
) -> LogitsProcessorList:
    """The logits processors that `generate` makes of a config that is filled in, for a prompt."""
    config = copy.deepcopy(config)  # which gets tensors of its ids
    without_weights: Any = GenerationMixin()
    without_weights.config = model
    without_weights._prepare_special_tokens(config, device=device)
    made: LogitsProcessorList = without_weights._get_logits_processor(
        config, len(prompt), torch.tensor([prompt], device=device), device=device
    )
    return made
