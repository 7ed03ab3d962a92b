"""Stream: one request being decoded, from its first event to its result."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from attrs import define, field

from toolkit.blame import blaming
from toolkit.choice import Choice
from toolkit.engine import Event, Strategies, decode
from toolkit.generation import Generation, StopReason
from toolkit.interfaces import KVPolicy, TreeShaper, Verifier
from toolkit.runtime.machine.memory import forget_peak, peak_memory
from toolkit.runtime.models.detokenize import Detokenizer
from toolkit.runtime.models.pool import Pool
from toolkit.runtime.models.supported import mirrored
from toolkit.runtime.numerics import level_of
from toolkit.runtime.session import ModelSession
from toolkit.runtime.shared_session import MirrorSession

if TYPE_CHECKING:
    from toolkit.pipeline import Pipeline


@define(eq=False)
class Stream:
    """One request being decoded. Iterating yields text pieces as they are committed.

    A request runs once: an iteration that was broken off is continued by the next.
    """

    pipeline: Pipeline
    prompt: list[int]
    max_new_tokens: int
    rng: torch.Generator
    verifier: Verifier | None = None  # stands in for the pipeline's
    events: list[Event] = field(factory=list, init=False)
    ttft_ms: float = field(default=0.0, init=False)
    target: ModelSession = field(init=False)
    drafts: DraftRuntime = field(init=False)
    _running: Iterator[Event] = field(init=False)
    _text: Detokenizer = field(init=False)

    def __attrs_post_init__(self) -> None:
        model = self.pipeline.pool.load(self.pipeline.target)
        self.target = ModelSession(model, self.pipeline.kv.build())
        room = self.target.positions - len(self.prompt) + 1
        self.max_new_tokens = min(self.max_new_tokens, room)
        self.drafts = DraftRuntime(self.pipeline.pool, self.target, self.pipeline.draft_kv)
        self._running = self._decoding()
        self._text = Detokenizer(model.tokenizer, self.prompt)

    def __iter__(self) -> Iterator[str]:
        for event in self._running:
            yield self._text.add(event.tokens)
        yield self._text.rest()

    def decode(self) -> Iterator[Event]:
        """The engine's events, kept for `result`."""
        return self._running

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end the request."""
        return frozenset() if self.pipeline.ignore_eos else self.target.model.stop_ids

    def _decoding(self) -> Iterator[Event]:
        chosen, model = self.pipeline, self.target.model
        strategies = Strategies(
            chosen.drafter.build(),
            chosen.shaper.build(),
            self.verifier or chosen.verifier.build(),
        )
        with blaming():
            if type(strategies.shaper).plan is not TreeShaper.plan:
                strategies.shaper.plan(chosen.costs(), len(self.prompt))
            forget_peak(model.device)
            began = perf_counter()
            for event in decode(
                self.target,
                self.drafts,
                strategies,
                self.prompt,
                max_new_tokens=self.max_new_tokens,
                stop_ids=self.stop_ids,
                rng=self.rng,
            ):
                if not self.events:
                    self.ttft_ms = 1e3 * (perf_counter() - began)
                self.events.append(event)
                yield event

    @property
    def result(self) -> Generation:
        """What was decoded so far."""
        model, ids = self.target.model, [t for event in self.events for t in event.tokens]
        return Generation(
            text=self._whole_text(),
            token_ids=ids,
            prompt_ids=self.prompt,
            stop_reason=self._stop_reason(ids),
            specs=self.pipeline.specs,
            numerics=level_of(model, len(self.prompt) + len(ids)).name,
            ttft_ms=self.ttft_ms,
            kv_bytes=self.target.cache.bytes,
            kv_peak_bytes=self.target.cache.peak,
            draft_kv_bytes=self.drafts.bytes,
            peak_memory_bytes=peak_memory(model.device),
            events=self.events,
        )

    def _whole_text(self) -> str:
        """The pieces that iterating yields, joined."""
        text = Detokenizer(self.target.model.tokenizer, self.prompt)
        return "".join([text.add(event.tokens) for event in self.events] + [text.rest()])

    def _stop_reason(self, ids: list[int]) -> StopReason:
        if ids and ids[-1] in self.stop_ids:
            return "eos"
        if len(ids) < self.max_new_tokens:
            return "interrupted"
        full = len(self.prompt) + len(ids) > self.target.positions
        return "positions" if full else "length"


@define(eq=False)
class DraftRuntime:
    """What a drafter may ask for: sessions of models under the draft KV policy."""

    pool: Pool
    target: ModelSession
    policy: Choice[KVPolicy]
    sessions: list[ModelSession] = field(factory=list)

    @property
    def vocabulary(self) -> int:
        return self.target.vocabulary

    def session(self, model: str) -> ModelSession:
        self.sessions.append(ModelSession(self.pool.load(model), self.policy.build()))
        return self.sessions[-1]

    def mirror(self, kv: Choice[KVPolicy]) -> ModelSession:
        mirrored(kv)
        self.sessions.append(MirrorSession(self.target.model, kv.build(), target=self.target))
        return self.sessions[-1]

    @property
    def bytes(self) -> int:
        return sum(session.cache.bytes for session in self.sessions)
