"""speculative(): speculative decoding for an existing `model.generate` call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from attrs import define, field
from torch import Tensor

from toolkit.errors import MismatchError, ModelError
from toolkit.pipeline import Pipeline, Spec
from toolkit.runtime.models.borrow import borrow
from toolkit.runtime.models.pool import Pool
from toolkit.runtime.models.supported import UNLIMITED

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

OURS = {
    "use_cache",
    "logits_to_keep",
    "cache_position",
}  # generate passes these; the toolkit decides
DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": False,
}
"""Generation options that must have these values: greedy, one sequence, a tensor of ids."""


class Streamer(Protocol):
    """A transformers streamer: it gets the prompt's ids, then every token."""

    def put(self, value: Tensor) -> None:
        """Take ids on the host."""

    def end(self) -> None:
        """No more ids will come."""


def speculative(
    drafter: Spec | PreTrainedModel = "ngram",
    shaper: Spec = "adaptive",
    verifier: Spec = "greedy",
    kv: Spec = "full",
    draft_kv: Spec = "full",
    streamer: Streamer | None = None,
) -> Speculative:
    """Speculative decoding for `model.generate(**inputs, custom_generate=speculative(drafter=…))`.

    The ids are those of greedy `generate` for one sequence. `drafter` may also be a transformers model
    in memory. Maximal lengths, end-of-sequence ids and stopping criteria are those of the call.
    `generate` does not pass on two things: a streamer, which you give here instead, and the tokenizer
    for `stop_strings`; use a `StopStringCriteria` among the stopping criteria. Keep the returned object
    for later calls: it holds the drafting model and the laid-out weights.

    The model's attention and training mode are restored after each call. Calling it raises
    `MismatchError` for sampling, beams, batches, padding and logits processors, naming the option.
    """
    return Speculative(drafter, shaper, verifier, kv, draft_kv, streamer)


@define(eq=False)
class Speculative:
    """A decoding method for `generate`, made by `speculative`."""

    drafter: Spec | PreTrainedModel
    shaper: Spec
    verifier: Spec
    kv: Spec
    draft_kv: Spec
    streamer: Streamer | None
    _pipeline: Pipeline | None = field(init=False, default=None)
    _for: tuple[Any, ...] = field(
        init=False, default=()
    )  # the model, device and dtype of `_pipeline`

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Any = (),
        stopping_criteria: Any = (),
        generation_config: GenerationConfig | None = None,
        **model_kwargs: Any,
    ) -> Tensor:
        """Ids [1, P + T] of the prompt and T new tokens; called by `generate`."""
        assert generation_config is not None  # noqa: S101 `generate` always has one
        _require_supported(input_ids, logits_processor, generation_config, model_kwargs)
        with borrow(model, *self._module()):
            return self._decoded(model, input_ids, stopping_criteria, generation_config)

    def _decoded(
        self, model: PreTrainedModel, ids: Tensor, criteria: Any, config: GenerationConfig
    ) -> Tensor:
        pipeline = self._pipeline_for(model)
        room = (config.max_length or UNLIMITED) - ids.shape[1]
        stream = pipeline.stream(ids[0], max_new_tokens=max(1, room), stop_ids=_stop_ids(config))
        self._tell(ids[0])
        for event in stream.decode():
            for token in event.tokens:
                ids = torch.cat([ids, ids.new_tensor([[token]])], 1)
                self._tell(ids[0, -1:])
                if criteria and bool(criteria(ids, None).all()):
                    self._tell(None)
                    return ids
        raise ModelError(
            f"the model's {stream.target.positions} positions are used up: ask for fewer new tokens"
        )

    def _tell(self, ids: Tensor | None) -> None:
        if self.streamer is not None and ids is None:
            self.streamer.end()
        elif self.streamer is not None and ids is not None:
            self.streamer.put(ids.cpu())

    def _module(self) -> tuple[PreTrainedModel, ...]:
        """The drafter, if it is a module."""
        return (self.drafter,) if hasattr(self.drafter, "generate") else ()

    def _pipeline_for(self, model: PreTrainedModel) -> Pipeline:
        """The pipeline for this model; that of the last call where it fits."""
        wanted = model, model.device, model.dtype
        if self._pipeline is None or self._for != wanted:
            pool = Pool(device=model.device.type)
            module = self._module()
            drafter: Any = f"model:{pool.hold(module[0])}" if module else self.drafter
            self._pipeline = Pipeline(
                model,
                drafter=drafter,
                shaper=self.shaper,
                verifier=self.verifier,
                kv=self.kv,
                draft_kv=self.draft_kv,
                pool=pool,
            )
            self._for = wanted
        return self._pipeline


def _stop_ids(config: GenerationConfig) -> frozenset[int]:
    """End-of-sequence ids of a call."""
    ids = torch.as_tensor([] if config.eos_token_id is None else config.eos_token_id)
    return frozenset(ids.flatten().long().tolist())


def _require_supported(
    input_ids: Tensor, processors: Any, config: GenerationConfig, model_kwargs: dict[str, Any]
) -> None:
    """Raise `MismatchError` for the first option that is not supported."""
    for name, value in DEFAULTS.items():
        given = getattr(config, name, None)
        if given not in (None, value):
            raise _unsupported(f"{name}={given}")
    if input_ids.ndim != 2 or input_ids.shape[0] != 1:
        raise _unsupported(f"a batch of {input_ids.shape[0]}")
    if processors:
        raise _unsupported(", ".join(type(processor).__name__ for processor in processors))
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    if mask is not None and not bool((mask == 1).all()):
        raise _unsupported("attention_mask with zeros: give the prompt without padding")
    if positions is not None and positions.flatten().tolist() != [*range(input_ids.shape[1])]:
        raise _unsupported("position_ids of your own")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise _unsupported("past_key_values that hold something")
    known = OURS | {"attention_mask", "position_ids", "past_key_values"}
    for name in sorted(set(model_kwargs) - known):
        if model_kwargs[name] is not None:
            raise _unsupported(name)


def _unsupported(what: str) -> MismatchError:
    return MismatchError(
        f"toolkit.speculative does not support {what}; it decodes one prompt greedily. Leave the "
        f"option out, or leave out custom_generate"
    )
