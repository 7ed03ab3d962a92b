"""speculative(): speculative decoding for an existing `model.generate` call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from attrs import define, field
from torch import Tensor

from toolkit.errors import MismatchError
from toolkit.generate_options import (
    require_honoured,
    sampling_of,
    unsupported,
    without_warpers,
)
from toolkit.pipeline import Pipeline, Spec
from toolkit.runtime.models.borrow import borrow
from toolkit.runtime.models.pool import Pool
from toolkit.sampling import Sampling

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from toolkit.stream import Stream


class Streamer(Protocol):
    """A transformers streamer: it gets the prompt's ids, then every token."""

    def put(self, value: Tensor) -> None:
        """Take ids on the host."""

    def end(self) -> None:
        """No more ids will come."""


def speculative(
    drafter: Spec | PreTrainedModel = "ngram",
    shaper: Spec | None = None,
    verifier: Spec | None = None,
    kv: Spec = "full",
    draft_kv: Spec = "full",
    streamer: Streamer | None = None,
) -> Speculative:
    """Speculative decoding for `model.generate(**inputs, custom_generate=speculative(drafter=…))`.

    The ids are those of greedy `generate` for one sequence. With `do_sample=True` they are drawn from
    the same law; after `torch.manual_seed` they are the same again. `drafter` may also be a
    transformers model in memory. Maximal lengths, end-of-sequence ids, stopping criteria, streamer and
    those logits processors that transformers makes of options are the call's; a streamer may be given
    here, too.
    `generate` does not pass on the tokenizer for `stop_strings`: use a `StopStringCriteria` among the
    stopping criteria. Keep the returned object for later calls: it holds the drafting model and the
    laid-out weights.

    The model's attention and training mode are restored after each call. Calling it raises
    `MismatchError` for whatever else is set in the call or in the model's generation config, and names
    it: beams, batches, padding, a cache or logits processors of your own.
    """
    return Speculative(drafter, shaper, verifier, kv, draft_kv, streamer)


@define(eq=False)
class Speculative:
    """A decoding method for `generate`, made by `speculative`."""

    drafter: Spec | PreTrainedModel
    shaper: Spec | None
    verifier: Spec | None
    kv: Spec
    draft_kv: Spec
    streamer: Streamer | None
    _pipeline: Pipeline | None = field(init=False, default=None)
    _for: tuple[Any, ...] = field(
        init=False, default=()
    )  # the model, device, dtype and sampling of `_pipeline`

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
        caller = _generate_locals()
        with _streaming(self.streamer, caller.get("streamer"), input_ids) as put:
            if caller.get("assistant_model") is not None:
                raise unsupported("assistant_model: give that model as `drafter`")
            require_honoured(model, input_ids, logits_processor, generation_config, model_kwargs)
            with borrow(model, *self._module()):
                request = self._request(model, input_ids, logits_processor, generation_config)
                return _decode(request, input_ids, stopping_criteria, put)

    def _request(
        self, model: PreTrainedModel, ids: Tensor, processors: Any, config: GenerationConfig
    ) -> Stream:
        """The request of one call. Raises `MismatchError` when the positions do not suffice for it."""
        sampling = sampling_of(config, processors)
        pipeline = self._pipeline_for(model, sampling)
        count, wanted = ids.shape[1], int(config.max_length) - ids.shape[1]
        room = pipeline.positions + 1 - count  # the last token needs no position
        if wanted > room:
            raise MismatchError(
                f"the prompt has {count} tokens, and the model {pipeline.positions} positions: ask for "
                f"at most {max(room, 0)} new tokens, not {wanted}"
            )
        return pipeline.stream(
            ids[0],
            max_new_tokens=max(1, wanted),
            stop_ids=_stop_ids(config),
            seed=0 if sampling.greedy else int(torch.randint(1 << 62, ())),
            processor=without_warpers(processors),
        )

    def _module(self) -> tuple[PreTrainedModel, ...]:
        """The drafter, if it is a module."""
        return (self.drafter,) if hasattr(self.drafter, "generate") else ()

    def _pipeline_for(self, model: PreTrainedModel, sampling: Sampling) -> Pipeline:
        """The pipeline for this model; that of the last call where it fits."""
        wanted = model, model.device, model.dtype, sampling
        if self._pipeline is None or self._for != wanted:
            pool = Pool(device=str(model.device))
            module = self._module()
            drafter: Any = f"model:{pool.hold(module[0])}" if module else self.drafter
            self._pipeline = Pipeline(
                model,
                drafter=drafter,
                shaper=self.shaper,
                verifier=self.verifier,
                kv=self.kv,
                draft_kv=self.draft_kv,
                sampling=sampling,
                generation_config=type(model.generation_config)(),  # the call's counts
                pool=pool,
            )
            self._for = wanted
        return self._pipeline


def _decode(request: Stream, ids: Tensor, criteria: Any, put: Callable[[Tensor], None]) -> Tensor:
    """The prompt's `ids[1, P]` and the new ones. Criteria are asked after every token."""
    for event in request.decode():
        for token in event.tokens:
            ids = torch.cat([ids, ids.new_tensor([[token]])], 1)
            put(ids[0, -1:])
            if criteria and bool(criteria(ids, None).all()):
                return ids
    return ids


@contextmanager
def _streaming(
    ours: Streamer | None, theirs: Streamer | None, prompt: Tensor
) -> Iterator[Callable[[Tensor], None]]:
    """Give the prompt to our streamer, and end both streamers after the request, whatever happens.

    `generate` itself gave the prompt to the call's.
    """
    streamers = [streamer for streamer in (ours, theirs) if streamer is not None]

    def put(ids: Tensor) -> None:
        for streamer in streamers:
            streamer.put(ids.cpu())

    try:
        if ours is not None:
            ours.put(prompt.cpu())
        yield put
    finally:
        for streamer in streamers:
            streamer.end()


def _generate_locals() -> dict[str, Any]:
    """The local variables of the `generate` that calls us: it passes on neither `streamer` nor
    `assistant_model`, and would ignore them without a word."""
    caller = sys._getframe(2)
    return caller.f_locals if caller.f_code.co_name == "generate" else {}


def _stop_ids(config: GenerationConfig) -> frozenset[int]:
    """End-of-sequence ids of a call."""
    ids = torch.as_tensor([] if config.eos_token_id is None else config.eos_token_id)
    return frozenset(ids.flatten().long().tolist())
