"""ModelDefaults: what a model's own generation config says about decoding, as `generate` reads it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from attrs import asdict, frozen
from transformers import GenerationConfig
from transformers.generation import GenerationMixin

from toolkit.errors import ModelError
from toolkit.generate_options import PROCESSORS, find_unsupported, sampling_of, without_warpers
from toolkit.sampling import Sampling

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, PretrainedConfig

    from toolkit.runtime.models.load import FoundModel, LoadedModel

REFUSED = {
    "forced_eos_token_id": "it depends on the length at which a request ends",
    "max_time": "--max-seconds and Limits(max_seconds=…) end a request",
}
"""What only a call of `generate` can honour, and why or what to use."""


@frozen(eq=False)
class ModelDefaults:
    """A model's generation config, with `generate`'s defaults for what it leaves out.

    `sampling` is how tokens are drawn where nothing else is asked for: greedily unless the config says
    `do_sample`. `options` are those of its logits processors, which are part of the model's decoding,
    greedy decoding included. `stop_ids` and `stop` are the ids and the texts that end a request.
    """

    sampling: Sampling
    options: dict[str, Any]
    stop_ids: frozenset[int]
    stop: tuple[str, ...]
    _generation_config: GenerationConfig  # filled in
    _config: PretrainedConfig  # the model's

    @classmethod
    def of(
        cls,
        name: str,
        model: FoundModel | LoadedModel,
        given: GenerationConfig | None = None,
        *,
        draws: bool = True,
        ignore_eos: bool = False,
    ) -> ModelDefaults:
        """Read a model's generation config, or the one given in its place. Needs no weights.

        `draws`: whether to read what it says about drawing tokens. `ignore_eos`: whether to leave out
        what ends a request. Raises `ModelError` for what cannot be honoured.
        """
        config = copy.deepcopy(given or model.generation_config)
        config.update(**config._get_default_generation_params(), defaults_only=True)
        config.do_sample = draws and bool(config.do_sample)
        config.return_dict_in_generate = False  # changes no token
        if config.cache_implementation == "hybrid":  # as `generate` does
            config.cache_implementation = None
        stop_ids = _find_stop_ids(config, model.config)
        if ignore_eos:
            stop_ids, config.stop_strings = frozenset(), None
        config.eos_token_id = sorted(stop_ids) or None
        try:
            made = _make_processors(config, model.config, [0])
            _require_supported(config, made)
            kept = without_warpers(made) or ()
            if kept:  # an id beyond the vocabulary is an error now, and not after the weights load
                kept(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, model.vocabulary))
            sampling = sampling_of(config, made)
        except Exception as error:  # of many kinds: processors check their values
            raise ModelError(
                f"the generation config of model {name!r} cannot be honoured: {error}; change its "
                f"generation_config.json, or give Pipeline another generation_config"
            ) from error
        named = [option for processor in kept for option in PROCESSORS[type(processor).__name__]]
        strings = config.stop_strings or ()
        return cls(
            sampling,
            {option: getattr(config, option) for option in named},
            stop_ids,
            (strings,) if isinstance(strings, str) else tuple(strings),
            config,
            model.config,
        )

    def processors(self, prompt: list[int], device: torch.device) -> LogitsProcessorList | None:
        """The logits processors of a request with `prompt[P]`; None where the config names none."""
        if not self.options:
            return None
        made = _make_processors(self._generation_config, self._config, prompt, device)
        kept: LogitsProcessorList | None = without_warpers(made)
        return kept

    @property
    def processing(self) -> str:
        """The options of its logits processors, as `repetition_penalty=1.1`; empty for none."""
        return _join(self.options)

    def describe(self, sampling: Sampling) -> str:
        """What decoding with `sampling` takes from the config, as `temperature=0.6,top_k=20`; empty
        for nothing."""
        own, neutral = asdict(self.sampling), asdict(Sampling())
        taken = {n: v for n, v in asdict(sampling).items() if v == own[n] != neutral[n]}
        return _join(taken | self.options)


def _find_stop_ids(*configs: GenerationConfig | PretrainedConfig) -> frozenset[int]:
    """End-of-sequence ids, of the generation config or else of the model's config."""
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset()


def _make_processors(
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


def _require_supported(config: GenerationConfig, processors: LogitsProcessorList) -> None:
    """Raise `ValueError` for the first option that a pipeline does not honour."""
    wrong = find_unsupported(config, processors)
    if wrong:
        raise ValueError(f"{wrong} is not supported")
    for option, reason in REFUSED.items():
        value = getattr(config, option)
        if value is not None:
            raise ValueError(f"{option}={value} is not supported ({reason})")


def _join(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())
